"""Rollouts of steps ahead, with the real loop against a scripted server: how far ahead, with which weights, to what losses."""

import contextlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import grpo as scripted
from tests.fakes.serving import calls

STEPS = 5
TEXTS = [f"<think>The film is seen .</think><answer>{word}</answer>" for word in ("yes", "no")]
PROMPT_TOKENS = 31
CHATS, WEIGHTS = "/v1/chat/completions", "reload_weights"


def trained(
    root: Path, monkeypatch: pytest.MonkeyPatch, staleness: int, delay_s: float = 0.0, **deepspeed: Any
) -> tuple[list[dict[str, Any]], list[tuple[str, int]]]:
    """Rows of the log, and in their order the changes of weights (the step after which) and requests (for which step)."""
    from diagcot.training.rl.loop import GrpoLoop

    root.mkdir()
    script = {"texts": TEXTS, "usage": [PROMPT_TOKENS, 4], "log_requests": True, "delay_s": delay_s}
    options = {
        "max_staleness": staleness, "importance_cap": 2.0, "temperature": 1.0, "top_p": 1.0, "max_gap": 99.0,
        "kl_coef": 0.0, "precheck_groups": 0, "group_size": 8,
        "deepspeed": {**scripted.DEEPSPEED, "steps": STEPS, "global_batch": 8, **deepspeed},
    }  # fmt: skip
    with scripted.stage(root, monkeypatch, script, **options) as (state, ctx), contextlib.ExitStack() as stack:
        assert state.pool.ready()
        loop = GrpoLoop(state, ctx, stack)
        assert loop.run()
        rows = [json.loads(line) for line in (ctx.workspace / "train.jsonl").read_text().splitlines()]
        seeds = {str(random.Random(f"{ctx.seed}/{step}/0").getrandbits(31)): step for step in range(STEPS)}
    seen, changes = [], 0
    for _, path, body in calls(root):
        if WEIGHTS in body:
            changes += 1
            seen.append((WEIGHTS, changes))
        elif path.startswith(("/pause", "/resume")) or (path == CHATS and body in seeds):  # probes have other seeds
            seen.append((path, seeds.get(body, changes)))
    return rows, seen


def test_weights_that_hardly_move_give_the_losses_of_the_loop_that_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {k: trained(tmp_path / str(k), monkeypatch, k, learning_rate=1e-12)[0] for k in (0, 1, 3)}
    losses = {k: [row["loss"] for row in rows] for k, rows in found.items()}
    assert len(losses[0]) == STEPS and max(map(abs, losses[0])) > 1e-3
    assert losses[1] == pytest.approx(losses[0], abs=1e-6) and losses[3] == pytest.approx(losses[0], abs=1e-6)
    assert [row["grad_norm"] for row in found[3]] == pytest.approx([row["grad_norm"] for row in found[0]], rel=1e-5)
    assert all("drift" in row for row in found[1]) and "drift" not in found[0][0]


@pytest.mark.parametrize("staleness", [0, 1, 2])
def test_rollouts_are_as_far_ahead_as_they_may_be_and_no_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, staleness: int
) -> None:
    _, seen = trained(tmp_path / "run", monkeypatch, staleness, delay_s=0.3)
    updates = 0  # of the policy whose weights the servers hold
    asked: dict[int, int] = {}  # step -> updates when its rollouts began
    for what, number in seen:
        if what == WEIGHTS:
            updates = number
        elif what == CHATS:
            asked.setdefault(number, updates)
    assert asked == {step: max(0, step - staleness) for step in range(STEPS)}
    order = [what for what, _ in seen if what != CHATS]
    assert order == ["/pause?mode=keep", WEIGHTS, "/resume"] * (STEPS - 1) if staleness else [WEIGHTS] * (STEPS - 1)


def test_a_prompt_that_fails_ends_the_stage_whichever_step_it_was_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diagcot.training.rl import rollout_collector

    class Failing(rollout_collector.RolloutCollector):
        def step(self, number: int, curriculum: Any) -> Any:
            if number == 3:
                raise RuntimeError("rollout of d/s/i failed")
            return super().step(number, curriculum)

    monkeypatch.setattr("diagcot.training.rl.loop.RolloutCollector", Failing)
    with pytest.raises(RuntimeError, match="rollout of d/s/i failed"):
        trained(tmp_path / "run", monkeypatch, 2)
    log = (tmp_path / "run/models/test/.work").rglob("train.jsonl")
    assert [json.loads(line)["step"] for line in next(log).read_text().splitlines()] == [1, 2, 3]
