"""What the screens make of Slurm's word: ids of other jobs, daemons that are away, held jobs, limits, finalisers."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from diagcot.console.screens import failures
from diagcot.console.screens.watch import Lines
from diagcot.console.state.executor import ExecutorState, query
from diagcot.console.state.reasons import sentence
from diagcot.console.state.remarks import remarks
from diagcot.console.state.run import Run
from diagcot.console.state.status import snapshot
from tests.unit.console.console_run import SIZE, FakeStage, fake_slurm

NO_DATABASE = "!sacct: error: Problem talking to the database: Connection refused\n"
AWAY = "!slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"


@dataclass
class Row:
    state: str
    reason: str = ""


@pytest.fixture
def stage(tmp_path: Path) -> FakeStage:
    """Eight units in four tasks: jobs 5_0 to 5_3, finaliser 6."""
    made = FakeStage(tmp_path / "r", "cot", 8, 4)
    made.submitted({"5": [0, 1, 2, 3]}, finaliser="6", age=1000)
    (tmp_path / "r" / "cluster.yaml").write_text(json.dumps({"executor": "slurm"}))
    return made


def with_slurm(monkeypatch: pytest.MonkeyPatch, stage: FakeStage, **said: str) -> tuple[Run, Path]:
    folder = fake_slurm(stage.path.parent.parent / "bin", **said)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return snapshot(stage.path.parent, query(stage.path.parent)), folder / "calls"


def see(stage: FakeStage, jobs: dict[str, Row], **more: Any) -> tuple[Run, str]:
    run = snapshot(stage.path.parent, ExecutorState(jobs, queue_known=True, **more))
    return run, "\n".join(remarks(run))


def test_one_squeue_and_one_sacct(monkeypatch: pytest.MonkeyPatch, stage: FakeStage) -> None:
    queue = "5_0|RUNNING|None|r.cot.0\n5_1|PENDING|Resources|r.cot.0\n6|PENDING|Dependency|r.cot.finaliser\n"
    history = "5_2|OUT_OF_MEMORY|None|r.cot.0|n1|0:125\n5_3|CANCELLED|None|r.cot.0|n1|0:0\n"
    run, calls = with_slurm(monkeypatch, stage, squeue=queue, sacct=history)
    cot = run.stages[0]
    assert sorted(line.split()[0] for line in calls.read_text().splitlines()) == ["sacct", "squeue"]
    assert (cot.running, cot.pending, cot.failed, cot.unknown) == (1, 5, 2, 0)
    assert cot.reasons == {"Resources": 2, "OUT_OF_MEMORY": 2, "DEPENDENCY": 2}
    assert cot.finaliser is not None and cot.finaliser.reason == "Dependency"
    assert not run.ended


def test_an_id_that_is_another_jobs_by_now_says_nothing(monkeypatch: pytest.MonkeyPatch, stage: FakeStage) -> None:
    queue = "5_0|RUNNING|None|other.cot.0\n6|RUNNING|None|other.finaliser\n"
    history = "5_1|FAILED|None|someone|n1|1:0\n5_2|RUNNING|None||n1|0:0\n"
    run, _ = with_slurm(monkeypatch, stage, squeue=queue, sacct=history)
    cot = run.stages[0]
    assert (cot.running, cot.failed, cot.unknown) == (1, 0, 6)  # of 5_2, accounting has no name yet
    assert cot.finaliser is None
    assert run.ended  # nothing of ours is queued


def test_slurmdbd_down(monkeypatch: pytest.MonkeyPatch, stage: FakeStage) -> None:
    run, _ = with_slurm(monkeypatch, stage, squeue="5_0|RUNNING|None|r.cot.0\n", sacct=NO_DATABASE)
    assert (run.stages[0].running, run.stages[0].unknown) == (1, 6)
    assert "no accounting" in run.note


def test_slurmctld_down(monkeypatch: pytest.MonkeyPatch, stage: FakeStage) -> None:
    stage.log(0, "5_0-0")
    run, _ = with_slurm(monkeypatch, stage, squeue=AWAY, sacct="5_1|TIMEOUT|None|r.cot.0|n1|0:0\n")
    cot = run.stages[0]
    assert (cot.running, cot.pending, cot.failed, cot.unknown) == (1, 5, 2, 0)  # what has no log waits, as ever
    assert "running jobs are those in accounting" in run.note
    assert not run.ended


def test_all_daemons_down(monkeypatch: pytest.MonkeyPatch, stage: FakeStage) -> None:
    stage.log(0, "5_0-0")
    run, _ = with_slurm(monkeypatch, stage, squeue=AWAY, sacct=NO_DATABASE)
    assert (run.stages[0].running, run.stages[0].failed) == (1, 0)
    assert "only files are shown" in run.note


def test_a_submission_under_way_is_no_end(monkeypatch: pytest.MonkeyPatch, stage: FakeStage) -> None:
    stage.write("attempts/1.intent", {"number": 1, "arrays": []})
    run, _ = with_slurm(monkeypatch, stage, squeue="", sacct="")
    assert not run.ended


def test_what_files_know_better_than_an_old_answer(stage: FakeStage) -> None:
    stage.log(0, "5_0-0")
    stage.log(1, "5_1-0", age=60)
    jobs = {f"5_{slot}": Row("PENDING", "Priority") for slot in range(4)}
    run = snapshot(stage.path.parent, ExecutorState(jobs, queue_known=True, queried_at=time.time() - 10))
    assert run.stages[0].running == 1  # task 0 has written since; task 1 was requeued
    assert run.stages[0].retrying == 2


def test_held_jobs_are_told_with_what_releases_them(stage: FakeStage) -> None:
    jobs = {
        "5_0": Row("PENDING", "JobHeldAdmin"),
        "5_1": Row("PENDING", "launch failed requeued held"),
        "5_2": Row("PENDING", "(launch_failed_requeued_held)"),
        "6": Row("PENDING", "JobHeldUser"),
    }
    _, shown = see(stage, jobs)
    assert shown.count("`make retry STAGE=cot RUN=r` releases it") == 4
    assert "cot: its finaliser: held by a user" in shown


def test_what_could_not_be_started_is_a_failure_with_what_releases_it(stage: FakeStage) -> None:
    jobs = {
        "5_0": Row("PENDING", "launch failed requeued held"),
        "5_1": Row("PENDING", "(launch_failed_requeued_held)"),
    }
    (found,) = failures.failures(see(stage, jobs | {"5_2": Row("PENDING", "JobHeldUser")})[0].stages[0])
    assert found.times == 2 and not found.again
    assert "`sinfo -R` shows" in found.message and "`make retry STAGE=cot RUN=r` releases it" in found.message


def test_an_end_without_a_line_names_the_folder_of_logs(stage: FakeStage) -> None:
    """Slurm ends a job whose log it cannot open, and nothing is left to read."""
    (found,) = failures.failures(see(stage, {"5_0": Row("FAILED")})[0].stages[0])
    assert f"may not see {stage.path}/slurm, or not be able to write there (FAILED)" in found.message
    (stage.path / "slurm").mkdir()
    (stage.path / "slurm" / "5_0.log").write_text(
        "srun: unrecognized option '--container-image=x'\nTry \"srun --help\" for more information\n"
    )
    (found,) = failures.failures(see(stage, {"5_0": Row("FAILED")})[0].stages[0])
    assert found.message.endswith("before its work began: srun: unrecognized option '--container-image=x'")


def test_in_a_pipe_a_remark_comes_once(stage: FakeStage) -> None:
    lines, jobs = Lines(), {f"5_{slot}": Row("PENDING", "JobHeldAdmin") for slot in range(4)}
    (first,) = lines.remarks(see(stage, jobs)[0])
    assert first.startswith("cot: 8 units: held by Slurm")
    assert list(lines.remarks(see(stage, jobs | {"5_0": Row("RUNNING")})[0])) == []  # of fewer units now


def test_a_dependency_that_can_never_be_met(stage: FakeStage) -> None:
    jobs = {f"5_{slot}": Row("PENDING", "DependencyNeverSatisfied") for slot in range(4)}
    run, shown = see(stage, jobs | {"6": Row("PENDING", "DependencyNeverSatisfied")})
    assert run.stages[0].pending == 8
    assert "cot: 8 units: an earlier stage failed, so it can never start" in shown
    assert "cot: its finaliser: an earlier stage failed" in shown


def test_tasks_that_a_submit_limit_left_over(stage: FakeStage) -> None:
    stage.submitted({"5": [0, 1]}, finaliser="6")
    jobs = {"5_0": Row("RUNNING"), "5_1": Row("RUNNING"), "6": Row("PENDING", "Dependency")}
    run, shown = see(stage, jobs)
    assert run.stages[0].reasons == {"WAITING": 4}
    assert "cot: 4 units: the submit limit is reached" in shown
    assert "is gone" not in shown
    assert "that finaliser is gone: `make retry STAGE=cot RUN=r`" in see(stage, {}, ended=True)[1]


def test_a_finaliser_that_died(stage: FakeStage) -> None:
    _, shown = see(stage, {"6": Row("OUT_OF_MEMORY")}, ended=True)
    assert "its finaliser ended without a decision (OUT_OF_MEMORY): `make retry STAGE=cot RUN=r`" in shown


def test_a_held_finaliser_of_a_stage_that_is_done(stage: FakeStage) -> None:
    stage.done(0, 8)
    _, shown = see(stage, {"6": Row("PENDING", "JobHeldUser")})
    assert shown == "cot: its finaliser: held by a user: `make retry STAGE=cot RUN=r` releases it (JobHeldUser)"
    assert see(stage, {"6": Row("PENDING", "Dependency")})[1] == ""
    assert see(stage, {"6": Row("COMPLETED")})[1] == ""


def test_why_a_stage_was_stopped(stage: FakeStage) -> None:
    late = FakeStage(stage.path.parent, "sft", 1, after=[{"stage": "cot", "each": False}], created=time.time() + 9)
    stage.write("summary.json", {"state": "failed", "why": "3 attempts have not finished it", "attempts": 1})
    late.write("summary.json", {"state": "failed", "why": "a stage before it failed", "attempts": 0})
    run, shown = see(stage, {}, ended=True)
    assert "cot: stopped: 3 attempts have not finished it" in shown
    assert "sft: stopped" not in shown
    found = [failure for s in run.stages for failure in failures.failures(s, run.blocked(s))]
    assert [(f.stage, f.kind, f.command) for f in found] == [("cot", "stopped", "make retry STAGE=cot RUN=r")]
    stage.submitted({"7": [0, 1, 2, 3]}, 1)  # that was before this submission
    assert "stopped" not in see(stage, {}, ended=True)[1].replace("sft: stopped", "")


def test_what_slurm_cancelled_behind_a_failure_waits(stage: FakeStage) -> None:
    run, shown = see(stage, {f"5_{slot}": Row("DEPENDENCY") for slot in range(4)}, ended=True)
    assert (run.stages[0].pending, run.stages[0].failed) == (8, 0)
    assert "it runs again when that stage is retried" in shown


def test_retrying_tasks_are_counted(stage: FakeStage) -> None:
    for attempt in ("5_0-0", "5_0-1", "5_1-0", "5_2-0"):
        stage.log(int(attempt[2]), attempt)
    jobs = {"5_0": Row("RUNNING"), "5_1": Row("PENDING", "BeginTime"), "5_2": Row("RUNNING"), "5_3": Row("PENDING")}
    run, _ = see(stage, jobs)
    tasks = run.stages[0].unfinished_tasks
    assert [(task.task_index, task.retried) for task in tasks] == [
        (0, True),
        (1, True),
        (2, False),
        (3, False),
    ]
    assert run.stages[0].retrying == 4


def test_gpu_hours_of_all_executions_and_of_what_is_left(tmp_path: Path) -> None:
    size, now = SIZE | {"gpus": 2, "nodes": 3}, time.time()
    stage = FakeStage(tmp_path / "r", "cot", 8, 4, resources=size, startup_s=0, unit_s=3600)
    (first,) = snapshot(tmp_path / "r").stages
    assert (first.gpu_spent, first.gpu_left) == (0, 24)  # four tasks of at most an hour on 6 GPUs
    stage.started(now - 7200, (0, "5_0-0"), (1, "5_1-0"), (1, "5_1-1"))
    stage.log(0, "5_0-0", age=3600)
    stage.log(1, "5_1-0", age=5400)  # an execution that failed has its cost
    stage.log(1, "5_1-1", age=600)
    stage.done(0, 2)
    (second,) = snapshot(tmp_path / "r", ExecutorState({"5_1": Row("RUNNING")}, queue_known=True), now).stages
    assert second.gpu_spent == pytest.approx(6 * (1 + 0.5 + 6600 / 3600), rel=1e-3)
    stage.submitted({"5": [0, 1, 2, 3]}, age=9000)
    (third,) = snapshot(tmp_path / "r", ExecutorState({"5_1": Row("RUNNING")}, queue_known=True), now).stages
    assert third.gpu_spent == pytest.approx(6 * (1 + 0.5 + 2), rel=1e-3)  # what runs costs until now
    assert third.gpu_left == pytest.approx(third.gpu_spent * 3)


@pytest.mark.parametrize(
    ("kind", "message", "where", "option"),
    [
        ("OutOfMemoryError", "CUDA out of memory", ("a.py:1 f",), ""),
        ("MemoryError", "", ("a.py:1 f",), "MEM=12 "),
        ("UserError", "task 00000 reached its time limit 3 times", (), "TIME=90 "),
        ("ValueError", "bad shape", ("a.py:1 f",), "CODE=new "),
        ("UserError", "no such file", (), ""),
    ],
)
def test_the_retry_that_a_failure_asks_for(
    stage: FakeStage, kind: str, message: str, where: tuple[str, ...], option: str
) -> None:
    stage.submitted({"5": [0, 1, 2, 3]}, age=1000, mem_gb=8.0)
    stage.log(0, "5_0-0")
    stage.failure(0, "5_0-0", kind, message, where=where, for_user=not where)
    (found,) = failures.failures(snapshot(stage.path.parent).stages[0])
    assert found.command == f"make retry STAGE=cot {option}RUN=r"


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("ReqNodeNotAvail, UnavailableNodes:gpu1", "down or reserved"),
        ("QOSGrpGRES", "until other jobs end"),
        ("AssocGrpGRESMinutes", "used up"),
        ("QOSMaxSubmitJobPerUserLimit", "maximum number of queued jobs"),
        ("QOSMaxCpuPerJobLimit", "more than one job may"),
    ],
)
def test_families_of_reasons(reason: str, words: str) -> None:
    assert words in sentence(reason)
    assert sentence(reason).endswith(f"({reason.split(',')[0]})")
