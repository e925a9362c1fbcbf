"""Rollouts of steps ahead, with the real loop against a scripted server: how far ahead, with which weights, to what losses."""

import contextlib
import json
import random
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.fakes import grpo as scripted
from tests.fakes.serving import calls

STEPS = 4
TEXTS = ["<think>The film is seen .</think><answer>yes</answer>", "yes"]  # the second lacks the layout and earns less
PROMPT_TOKENS = 31
CHATS, WEIGHTS = "/v1/chat/completions", "reload_weights"
OPTIONS: dict[str, Any] = {
    "importance_cap": 2.0, "temperature": 1.0, "top_p": 1.0, "max_gap": 99.0, "kl_coef": 0.0, "precheck_groups": 0,
    "group_size": 4,
    # Weights that hardly move: then it changes no loss which of them draw the rollouts.
    "deepspeed": {
        **scripted.DEEPSPEED, "steps": STEPS, "micro_batch": 4, "global_batch": 4, "learning_rate": 1e-12,
    },
}  # fmt: skip


class Run(NamedTuple):
    """Rows of the log; and in their order the changes of weights (after how many updates) and requests (for which step)."""

    rows: list[dict[str, Any]]
    seen: list[tuple[str, int]]


def trained(root: Path, patch: pytest.MonkeyPatch, staleness: int) -> Run:
    from diagcot.training.rl.loop import GrpoLoop

    root.mkdir()
    script = {"texts": TEXTS, "usage": [PROMPT_TOKENS, 4], "log_requests": True, "delay_s": 0.3}
    with (
        scripted.stage(root, patch, script, **OPTIONS, max_staleness=staleness) as (state, ctx),
        contextlib.ExitStack() as stack,
    ):
        assert state.pool.ready()
        assert GrpoLoop(state, ctx, stack).run()
        rows = [json.loads(line) for line in (ctx.workspace / "train.jsonl").read_text().splitlines()]
        seeds = {str(random.Random(f"{ctx.seed}/{step}/0").getrandbits(31)): step for step in range(STEPS)}
    seen, changes = [], 0
    for _, path, body in calls(root):
        if WEIGHTS in body:
            changes += 1
            seen.append((WEIGHTS, changes))
        elif path.startswith(("/pause", "/resume")) or (path == CHATS and body in seeds):  # probes have other seeds
            seen.append((path, seeds.get(body, changes)))
    return Run(rows, seen)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Run]:
    """By the number of steps ahead."""
    found = {}
    for staleness in (0, 2):
        with pytest.MonkeyPatch.context() as patch:
            found[staleness] = trained(tmp_path_factory.mktemp("ahead") / "run", patch, staleness)
    return found


def test_weights_that_hardly_move_give_the_losses_of_the_loop_that_waits(runs: dict[int, Run]) -> None:
    waits, ahead = runs[0].rows, runs[2].rows
    assert [row["step"] for row in ahead] == [row["step"] for row in waits] == list(range(1, STEPS + 1))
    assert max(abs(row["loss"]) for row in waits) > 1e-3 and max(row["spread"] for row in waits) > 0.01
    for name in ("loss", "reward", "grad_norm", "capped"):
        assert [row[name] for row in ahead] == pytest.approx([row[name] for row in waits], rel=1e-5, abs=1e-6), name
    assert all("drift" in row for row in ahead) and "drift" not in waits[0]


@pytest.mark.parametrize("staleness", [0, 2])
def test_rollouts_are_as_far_ahead_as_they_may_be_and_no_further(runs: dict[int, Run], staleness: int) -> None:
    seen, updates = runs[staleness].seen, 0  # updates: of the policy whose weights the server holds
    asked: dict[int, int] = {}  # step -> updates when its rollouts began
    for what, number in seen:
        if what == WEIGHTS:
            updates = number
        elif what == CHATS:
            asked.setdefault(number, updates)
    assert sorted(asked) == list(range(STEPS))
    for step, begun_after in asked.items():
        assert max(0, step - staleness) <= begun_after <= (step - 1 if staleness and step else step)
    order = [what for what, _ in seen if what != CHATS]
    assert order == ["/pause?mode=keep", WEIGHTS, "/resume"] * (STEPS - 1) if staleness else [WEIGHTS] * (STEPS - 1)


def test_a_probe_that_differs_ends_the_stage_before_the_weights_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diagcot.training.rl.loop import GrpoLoop

    script = {"texts": TEXTS, "usage": [PROMPT_TOKENS, 4]}
    options = {**OPTIONS, "max_staleness": 2, "max_gap": 1e-9}  # the script's log-probabilities are not the policy's
    with scripted.stage(tmp_path, monkeypatch, script, **options) as (state, ctx), contextlib.ExitStack() as stack:
        assert state.pool.ready()
        loop = GrpoLoop(state, ctx, stack)
        before = {name: value.detach().clone() for name, value in loop.policy.engine.module.named_parameters()}
        with pytest.raises(FloatingPointError, match="differ by"):
            loop.run()
        assert loop.served.gap > 1e-9
        assert all(bool((value == before[name]).all()) for name, value in loop.policy.engine.module.named_parameters())
