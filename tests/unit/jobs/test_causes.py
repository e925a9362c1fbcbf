"""Causes decide what is tried again."""

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diagcot.jobs import Plan, causes, finaliser
from diagcot.jobs.execution import worker
from diagcot.jobs.plans import plan as plans
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.state import attempts
from diagcot.jobs.state.attempts import Array, Attempt
from diagcot.jobs.state.failures import LOST_PEER
from diagcot.jobs.testing import context
from tests import chains


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setattr(causes, "LAG_S", 0)
    made = chains.plan(tmp_path, "cot", 3)
    plans.write(made)
    attempts.write(made.path, Attempt(1, "submitted", (Array("7", (0, 1, 2)),), "8"))
    return made


def accounting(monkeypatch: pytest.MonkeyPatch, states: dict[str, str], exit_code: str = "1:0", name: str = "") -> None:
    rows = {job: slurm.Job(job, state, nodes="gpu3", exit=exit_code, name=name) for job, state in states.items()}
    monkeypatch.setattr(slurm, "history", lambda jobs: rows)


def failed(plan: Plan, task_index: int, attempt: str, **more: object) -> None:
    (plan.path / "failed").mkdir(exist_ok=True)
    row = {
        "task": f"{task_index:05d}", "attempt": attempt, "type": "ValueError", "message": "no such label", "rank": 0,
        "for_user": False, "where": ["loop.py:3 run"], "time": float(len(list((plan.path / "failed").iterdir()))),
    }  # fmt: skip
    (plan.path / "failed" / f"{task_index:05d}.{attempt}.r{more.get('rank', 0)}.json").write_text(
        json.dumps(row | more)
    )


@pytest.mark.parametrize(
    ("state", "retry", "memory", "excluded"),
    [
        ("PREEMPTED", True, False, ""),
        ("NODE_FAIL", True, False, "gpu3"),
        ("BOOT_FAIL", True, False, "gpu3"),
        ("TIMEOUT", True, False, ""),
        ("OUT_OF_MEMORY", True, True, ""),
        ("FAILED", True, False, ""),
        ("COMPLETED", True, False, ""),
        ("DEPENDENCY", True, False, ""),
        ("UNKNOWN", True, False, ""),
        ("SOMETHING_NEW", True, False, ""),
        ("CANCELLED", False, False, ""),
        ("DEADLINE", False, False, ""),
    ],
)
def test_each_state_has_its_rule(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, state: str, retry: bool, memory: bool, excluded: str
) -> None:
    accounting(monkeypatch, {"7_0": "COMPLETED", "7_1": "COMPLETED", "7_2": state})
    for key in plan.keys[:2]:
        (plan.path / "done").mkdir(exist_ok=True)
        (plan.path / "done" / f"{key}.json").write_text("{}")
    verdict = causes.judge(plan, 3)
    assert list(verdict.retries) == [2] * retry and list(verdict.stopped) == [2] * (not retry) and verdict.why
    if retry:
        assert (verdict.retries[2].more_memory, verdict.exclude) == (memory, excluded)


def test_one_task_that_may_not_run_again_does_not_hold_up_the_others(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounting(monkeypatch, {"7_0": "CANCELLED", "7_1": "PREEMPTED", "7_2": "OUT_OF_MEMORY"})
    verdict = causes.judge(plan, 3)
    assert list(verdict.retries) == [1, 2] and list(verdict.stopped) == [0]
    assert not verdict.retries[1].more_memory and verdict.retries[2].more_memory  # only the one that ran out of it


@pytest.mark.parametrize(("code", "memory"), [("137:0", True), ("0:9", True), ("0:125", True), ("1:0", False)])
def test_a_kill_for_memory_that_slurm_calls_a_failure(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, code: str, memory: bool
) -> None:
    accounting(monkeypatch, {f"7_{k}": "FAILED" for k in range(3)}, code)
    assert {rule.more_memory for rule in causes.judge(plan, 3).retries.values()} == {memory}
    failed(plan, 1, "7_1-0")  # an exception was told: it is no silent kill
    assert not causes.judge(plan, 3).retries[1].more_memory


def test_accounting_that_does_not_answer_is_no_verdict_of_failure(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(jobs: list[str]) -> dict[str, slurm.Job]:
        raise slurm.SlurmError("sacct failed")

    monkeypatch.setattr(slurm, "history", broken)
    assert set(causes.judge(plan, 3).retries.values()) == {causes.RULES["UNKNOWN"]}


def test_a_job_of_another_name_under_the_same_id_is_not_ours(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    accounting(monkeypatch, {f"7_{k}": "CANCELLED" for k in range(3)}, name="somebody.elses")
    assert set(causes.judge(plan, 3).retries.values()) == {causes.RULES["UNKNOWN"]}


def test_an_element_without_a_record_in_a_known_array_was_cancelled_while_pending(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounting(monkeypatch, {"7_0": "PREEMPTED"})
    (plan.path / "out").mkdir()
    (plan.path / "out" / "00001.7_1-0.log").touch()  # this one had begun: accounting has lost it
    verdict = causes.judge(plan, 3)
    assert verdict.retries == {0: causes.RULES["PREEMPTED"], 1: causes.RULES["UNKNOWN"]}
    assert list(verdict.stopped) == [2] and "scancel" in verdict.stopped[2]


def test_a_task_never_submitted_waits_for_room(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    (plan.path / "attempts" / "1.json").unlink()
    attempts.write(plan.path, Attempt(1, "submitted", (Array("7", (0, 1)),), "8"))
    accounting(monkeypatch, {"7_0": "COMPLETED", "7_1": "COMPLETED"})
    assert causes.judge(plan, 1).retries == {2: causes.RULES["WAITING"]}


def test_counted_causes_end_and_free_ones_do_not(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts.write(plan.path, Attempt(2, "again", (Array("9", (0, 1, 2)),), "10", by="finaliser", spent={0: 1, 1: 1}))
    accounting(monkeypatch, {f"9_{k}": "FAILED" for k in range(3)})
    verdict = causes.judge(plan, 2)
    assert list(verdict.stopped) == [0, 1] and list(verdict.retries) == [2] and verdict.spent == {0: 2, 1: 2, 2: 1}
    accounting(monkeypatch, {f"9_{k}": "PREEMPTED" for k in range(3)})
    verdict = causes.judge(plan, 2)
    assert len(verdict.retries) == 3 and verdict.spent == {0: 1, 1: 1, 2: 0}


def test_a_time_limit_counts_only_without_progress(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    accounting(monkeypatch, {f"7_{k}": "TIMEOUT" for k in range(3)})
    (plan.path / "partial").mkdir()
    (plan.path / "partial" / f"{plan.keys[0]}~7_0-0.jsonl").write_text('{"id": "a"}\n')
    verdict = causes.judge(plan, 3)
    assert verdict.retries[0] is causes.RULES["TIMEOUT"] and verdict.retries[1] is causes.RULES["STUCK"]
    assert verdict.spent == {0: 0, 1: 1, 2: 1}


@pytest.mark.parametrize(("times", "for_user", "retry"), [(1, False, True), (2, False, False), (1, True, False)])
def test_the_same_exception_twice_or_a_users_mistake_stops(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, times: int, for_user: bool, retry: bool
) -> None:
    accounting(monkeypatch, {f"7_{k}": "FAILED" for k in range(3)})
    for time in range(times):
        failed(plan, 1, f"7_1-{time}", for_user=for_user, rank=1)  # whatever the rank that raised it
    verdict = causes.judge(plan, 3)
    assert (1 in verdict.retries) == retry and {0, 2} <= verdict.retries.keys()
    assert retry or "no such label" in verdict.stopped[1]


def test_that_a_rank_lost_another_is_no_failure_of_its_own(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed twice for its memory at the same place of the other rank, a task runs again with more."""
    accounting(monkeypatch, {"7_0": "FAILED", "7_1": "COMPLETED", "7_2": "COMPLETED"}, exit_code="137:0")
    for attempt in ("7_0-0", "7_0-1"):
        failed(plan, 0, attempt, type=LOST_PEER, rank=1)
    verdict = causes.judge(plan, 3)
    assert verdict.retries[0].more_memory and not verdict.stopped
    failed(plan, 0, "7_0-2")
    assert not causes.judge(plan, 3).retries[0].more_memory  # an error of a rank's own says more than the exit code


@pytest.mark.parametrize(
    ("error", "ranks", "expected"),
    [
        (
            RuntimeError("gloo/transport/tcp/pair.cc:537] Read error [10.0.0.1]:4: Connection reset by peer"),
            2,
            LOST_PEER,
        ),
        (RuntimeError("gloo/transport/tcp/pair.cc:544] Connection closed by peer [10.0.0.1]:5"), 2, LOST_PEER),
        (RuntimeError("Connection reset by peer"), 1, "RuntimeError"),
        (ConnectionResetError("Connection reset by peer"), 2, "ConnectionResetError"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), 2, "RuntimeError"),
    ],
)
def test_a_lost_rank_is_told_by_what_gloo_says(tmp_path: Path, error: Exception, ranks: int, expected: str) -> None:
    ctx = context(tmp_path, rank=1, world_size=ranks)
    worker._record_failure(ctx, error)
    (path,) = (ctx.stage_dir / "failed").iterdir()
    assert json.loads(path.read_text())["type"] == expected


def test_what_failed_before_a_person_submitted_again_is_forgiven(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    for time in range(2):
        failed(plan, 1, f"7_1-{time}", for_user=True)
    attempts.write(plan.path, Attempt(2, "retry", (Array("9", (0, 1, 2)),), "10"))
    accounting(monkeypatch, {f"9_{k}": "PREEMPTED" for k in range(3)})
    assert len(causes.judge(plan, 3).retries) == 3


states = st.sampled_from([*causes.RULES, "REVOKED", "FAILED"])


@given(st.lists(st.tuples(states, st.integers(0, 3), st.booleans()), min_size=3, max_size=3), st.integers(1, 4))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_open_task_gets_exactly_one_verdict(plan: Plan, ends: list[tuple[str, int, bool]], limit: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        accounting(patch, {f"7_{k}": state for k, (state, _, _) in enumerate(ends)})
        (plan.path / "attempts" / "1.json").unlink()
        spent = {k: count for k, (_, count, _) in enumerate(ends)}
        attempts.write(plan.path, Attempt(1, "again", (Array("7", (0, 1, 2)),), "8", by="finaliser", spent=spent))
        verdict = causes.judge(plan, limit)
    assert sorted([*verdict.retries, *verdict.stopped]) == [0, 1, 2]
    for task_index, (state, count, _) in enumerate(ends):
        assert count <= verdict.spent[task_index] <= count + 1
        if state in ("CANCELLED", "REMOVED", "DEADLINE"):
            assert task_index in verdict.stopped
        if state in ("PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "DEPENDENCY"):
            assert task_index in verdict.retries and verdict.spent[task_index] == count
        if task_index in verdict.retries and verdict.retries[task_index].counted:
            assert verdict.spent[task_index] < limit


@pytest.mark.parametrize(
    ("state", "reason", "ended"),
    [
        ("RUNNING", "None", False),
        ("COMPLETING", "None", True),  # cancelled, or to be requeued, while it is at work
        ("CANCELLED", "None", True),
        ("COMPLETING", "TimeLimit", False),  # it still has the time to submit
    ],
)
def test_a_finaliser_that_slurm_ends_submits_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, reason: str, ended: bool
) -> None:
    plan = chains.plan(tmp_path, "stage", 1)
    monkeypatch.setattr(slurm, "show", lambda *_: [{"JobState": state, "Reason": reason}])
    with pytest.raises(finaliser.StageFailed) if ended else contextlib.nullcontext():
        finaliser._require_own_job(plan, "7")
