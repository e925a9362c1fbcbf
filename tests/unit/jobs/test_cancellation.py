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
        rows(("7_0", "RUNNING"), ("8", "PENDING")),
        rows(("7_0", "COMPLETING"), ("8", "COMPLETING")),
        rows(("8", "PENDING")),  # it was being requeued
        rows(("8", "COMPLETING")),
        [],
    ]
    cancelled: list[list[str]] = []

    def cancel(jobs: Sequence[str]) -> None:
        cancelled.append(list(jobs))

    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    for name, call in {"queue": lambda: looks.pop(0), "cancel": cancel}.items():
        monkeypatch.setattr(commands, name, call)
    assert cancellation.cancel(run_dir) == ["7", "8"]
    assert cancelled == [["7", "8"], ["8"]] and not looks


def test_a_job_is_cancelled_whose_id_another_stage_had_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slurmctld that was killed forgets the jobs that it accepted last, and gives their ids to others."""
    plans = [chains.plan(tmp_path, name, 2) for name in ("first", "second")]
    run_dir = chains.write(tmp_path, plans, chains.cluster())
    for first, second in (("7", "9"), ("9", "7")):  # whichever folder is read last
        for plan, job in zip(plans, (first, second), strict=True):
            count = len(attempts.read(plan.path)) + 1
            array = Array(job, (0, 1), f"run.{plan.stage}.{count}")
            attempts.write(plan.path, Attempt(count, "submitted", (array,)))
    queued = [Job("9_0", "PENDING", "None", "run.first.2"), Job("7_0", "PENDING", "None", "run.second.2")]
    other = Job("7_1", "PENDING", "None", "of another run")
    cancelled: list[str] = []
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(commands, "queue", lambda: [] if cancelled else [*queued, other])
    monkeypatch.setattr(commands, "cancel", cancelled.extend)
    assert cancellation.cancel(run_dir) == ["7", "9"] and cancelled == ["7", "9"]
