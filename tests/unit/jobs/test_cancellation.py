"""A cancellation that Slurm forgets: the job is in the queue once more, and is cancelled again."""

import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from diagcot.jobs.slurm import cancellation, commands
from diagcot.jobs.slurm.commands import Job
from diagcot.jobs.state import attempts
from diagcot.jobs.state.attempts import Array, Attempt
from tests import chains


def test_a_job_that_returns_is_cancelled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = chains.plan(tmp_path, "first", 2)
    run_dir = chains.write(tmp_path, [plan], chains.cluster())
    array = Array("7", (0, 1), "run.first.1")
    attempts.write(plan.path, Attempt(1, "submitted", (array,), "8", "run.first.finaliser.1"))
    names = {"7": "run.first.1", "8": "run.first.finaliser.1"}

    def rows(*jobs: tuple[str, str]) -> list[Job]:
        return [Job(job, state, "None", names[job.partition("_")[0]]) for job, state in jobs]

    looks = [
        rows(("7_0", "COMPLETING"), ("8", "COMPLETING")),
        rows(("8", "PENDING")),  # it was being requeued
        rows(("8", "COMPLETING")),
        [],
    ]
    cancelled: list[list[str]] = []
    queue = [rows(("7_0", "RUNNING"), ("8", "PENDING"))]

    def look() -> list[Job]:
        queue.append(looks.pop(0))
        return queue[-1]

    def alive(known: dict[str, str]) -> set[str]:
        return {job.id.partition("_")[0] for job in queue[-1]} & known.keys()

    def cancel(jobs: Sequence[str]) -> None:
        cancelled.append(list(jobs))

    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    for name, call in {"queue": look, "alive": alive, "cancel": cancel}.items():
        monkeypatch.setattr(commands, name, call)
    assert cancellation.cancel(run_dir) == ["7", "8"]
    assert cancelled == [["7", "8"], ["8"]] and not looks
