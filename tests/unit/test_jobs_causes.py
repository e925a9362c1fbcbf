"""Causes decide what is tried again."""

import json
from pathlib import Path

import pytest

from diagcot.jobs import attempts, causes, slurm
from diagcot.jobs import plan as plans
from diagcot.jobs.attempts import Array, Attempt
from diagcot.jobs.plan import Plan
from tests import chains


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setattr(causes, "LAG_S", 0)
    made = chains.plan(tmp_path, "cot", 3)
    plans.write(made)
    attempts.write(made.path, Attempt(1, "submitted", (Array("7", (0, 1, 2)),), "8"))
    return made


def accounting(monkeypatch: pytest.MonkeyPatch, states: dict[str, str], nodes: str = "gpu3") -> None:
    rows = {name: slurm.Job(name, state, nodes=nodes) for name, state in states.items()}
    monkeypatch.setattr(slurm, "history", lambda jobs: rows)


@pytest.mark.parametrize(
    ("state", "retry", "memory", "excluded"),
    [
        ("PREEMPTED", True, False, ""),
        ("NODE_FAIL", True, False, "gpu3"),
        ("BOOT_FAIL", True, False, "gpu3"),
        ("TIMEOUT", True, False, ""),
        ("OUT_OF_MEMORY", True, True, ""),
        ("FAILED", True, False, ""),
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
    assert (verdict.retry, verdict.more_memory, verdict.exclude) == (retry, memory, excluded)
    assert verdict.slots == (2,) and verdict.why


def test_accounting_that_does_not_answer_is_no_verdict_of_failure(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(jobs: list[str]) -> dict[str, slurm.Job]:
        raise slurm.SlurmError("sacct failed")

    monkeypatch.setattr(slurm, "history", broken)
    verdict = causes.judge(plan, 3)
    assert verdict.retry and set(verdict.states.values()) == {"UNKNOWN"}


def test_counted_causes_end_and_free_ones_do_not(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts.write(plan.path, Attempt(2, "again", (Array("9", (0, 1, 2)),), "10"))
    accounting(monkeypatch, {f"9_{k}": "TIMEOUT" for k in range(3)})
    assert not causes.judge(plan, 2).retry
    assert causes.judge(plan, 3).retry
    accounting(monkeypatch, {f"9_{k}": "PREEMPTED" for k in range(3)})
    assert causes.judge(plan, 2).retry


@pytest.mark.parametrize(("times", "for_user", "retry"), [(1, False, True), (2, False, False), (1, True, False)])
def test_the_same_exception_twice_or_a_users_mistake_stops(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, times: int, for_user: bool, retry: bool
) -> None:
    accounting(monkeypatch, {f"7_{k}": "FAILED" for k in range(3)})
    (plan.path / "failed").mkdir()
    row = {"task": "00001", "type": "ValueError", "message": "no such label", "rank": 0, "for_user": for_user}
    for time in range(times):
        (plan.path / "failed" / f"00001.7_1-{time}.r0.json").write_text(json.dumps(row | {"time": time}))
    verdict = causes.judge(plan, 3)
    assert verdict.retry == retry
    assert retry or "no such label" in verdict.why
