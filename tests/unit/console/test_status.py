"""The state of a run, from files alone and with what Slurm says."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from diagcot.console import text
from diagcot.console.screens import status as status_screen
from diagcot.console.screens.status import render
from diagcot.console.state import tasks
from diagcot.console.state.executor import ExecutorState
from diagcot.console.state.run import Stage
from diagcot.console.state.status import snapshot
from diagcot.jobs.state.attempts import job_names
from tests import audit
from tests.unit.console.console_run import FakeStage, built_at, typical_run


@dataclass
class Row:
    state: str
    reason: str = ""


def dead_pid() -> int:
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


def only(run: Path, jobs: dict[str, Row] | None = None) -> Stage:
    return snapshot(run, ExecutorState(jobs, queue_known=True) if jobs is not None else None).stages[0]


def test_typical_run(tmp_path: Path) -> None:
    path = typical_run(tmp_path)
    run = snapshot(path, now=built_at(path))
    assert [(s.name, s.state) for s in run.stages] == [
        ("shard", "done"),
        ("teacher", "running"),
        ("cot", "failed"),
        ("filter", "pending"),
        ("cot-sft-with-a-long-name", "pending"),
    ]
    cot = run.stages[2]
    assert (cot.done, cot.running, cot.pending, cot.failed, cot.unknown) == (4, 1, 4, 3, 0)
    teacher = run.stages[1]
    assert teacher.figures["loss"] == 1.3217
    assert teacher.fraction == pytest.approx(0.4)
    assert teacher.eta == pytest.approx(teacher.elapsed * 0.6 / 0.4)
    assert run.stages[0].elapsed == pytest.approx(20, abs=1)
    assert run.state == "running"


def test_units_add_up_whatever_the_state(tmp_path: Path) -> None:
    for stage in snapshot(typical_run(tmp_path)).stages:
        assert stage.done + stage.running + stage.pending + stage.failed + stage.unknown == stage.units


def test_without_the_files_of_a_unit_slurm_does_not_make_it_done(tmp_path: Path) -> None:
    stage = FakeStage(tmp_path / "r", "a", 2, 2)
    stage.submitted({"5": [0, 1]})
    found = only(tmp_path / "r", {"5_0": Row("COMPLETED"), "5_1": Row("COMPLETED")})
    assert (found.done, found.failed) == (0, 2)
    assert found.reasons == {"COMPLETED": 2}


def test_slurm_tells_pending_from_running_and_why(tmp_path: Path) -> None:
    stage = FakeStage(tmp_path / "r", "a", 4, 4)
    stage.submitted({"5": [0, 1, 2], "6": [3]})
    jobs = {
        "5_0": Row("RUNNING"),
        "5_1": Row("PENDING", "Resources"),
        "5_2": Row("OUT_OF_MEMORY"),
        "6": Row("PENDING", "None"),
    }
    found = only(tmp_path / "r", jobs)
    assert (found.running, found.pending, found.failed) == (1, 2, 1)
    assert found.reasons == {"Resources": 1, "OUT_OF_MEMORY": 1}


def test_unknown_is_a_state_of_its_own(tmp_path: Path) -> None:
    stage = FakeStage(tmp_path / "r", "a", 3, 3)
    stage.submitted({"5": [0, 1, 2]}, age=20_000)
    stage.log(0, "5_0-0", age=10_000)  # silent for long
    stage.log(1, "5_1-0")
    stage.progress(1, "5_1-0", 1, 2, dead_pid())  # its process on this machine is gone
    assert (only(tmp_path / "r").unknown, only(tmp_path / "r").pending) == (2, 1)
    assert only(tmp_path / "r", {}).unknown == 3  # Slurm has forgotten all of them


def test_a_new_attempt_makes_an_old_failure_history(tmp_path: Path) -> None:
    stage = FakeStage(tmp_path / "r", "a", 1)
    stage.log(0, "5-0", age=50)
    stage.failure(0, "5-0")
    assert only(tmp_path / "r").failed == 1
    stage.log(0, "9-0")
    stage.progress(0, "9-0", 1, 2, os.getpid())
    assert only(tmp_path / "r").state == "running"


def test_what_was_submitted_again_waits(tmp_path: Path) -> None:
    stage = FakeStage(tmp_path / "r", "a", 1)
    stage.log(0, "1.1", age=50)
    stage.failure(0, "1.1")
    stage.submitted({"local-7": [0]}, 2)
    assert only(tmp_path / "r").state == "pending"


def test_where_nobody_works_what_was_interrupted_waits(tmp_path: Path) -> None:
    stage = FakeStage(tmp_path / "r", "a", 2, 2)
    stage.log(0, "1.1")
    stage.progress(0, "1.1", 1, 2, dead_pid())
    stage.log(1, "1.1")
    stage.failure(1, "1.1")
    found = snapshot(tmp_path / "r", ExecutorState(ended=True, local=True))
    assert (found.stages[0].pending, found.stages[0].failed, found.stages[0].unknown) == (1, 1, 0)
    assert found.ended


def test_what_was_interrupted_waits_for_a_runner_that_has_just_begun(tmp_path: Path) -> None:
    stage = FakeStage(tmp_path / "r", "a", 3, 3)
    for slot, age in enumerate((60, 60, 0)):
        stage.log(slot, "1.1", age=age)
        stage.progress(slot, "1.1", 1, 2, dead_pid())
    stage.failure(1, "1.1")
    found = snapshot(tmp_path / "r", ExecutorState(local=True, runner_started=time.time() - 30)).stages[0]
    assert (found.pending, found.failed, found.unknown) == (1, 1, 1)  # the third began later, and is gone


def test_a_task_that_ends_while_one_looks_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = FakeStage(tmp_path / "r", "a", 1)
    stage.log(0, "1.1")
    stage.progress(0, "1.1", 1, 2, dead_pid())

    def gone(pid: int) -> bool:
        stage.done(0, 1)
        return False

    monkeypatch.setattr(tasks, "is_alive", gone)
    assert only(tmp_path / "r").state == "done"


def test_progress_of_an_earlier_attempt_does_not_count(tmp_path: Path) -> None:
    stage = FakeStage(tmp_path / "r", "a", 1)
    stage.log(0, "5-0", age=50)
    stage.progress(0, "5-0", 9, 10, os.getpid())
    stage.log(0, "9-0")
    assert only(tmp_path / "r").fraction == 0


def test_a_manifest_that_is_being_written_is_not_done(tmp_path: Path) -> None:
    stage = FakeStage(tmp_path / "r", "a", 2)
    stage.write("done/.00000.json.77.ab", {})
    assert only(tmp_path / "r").done == 0


def test_rates_of_tasks_add_up_and_other_figures_are_averaged(tmp_path: Path) -> None:
    stage = FakeStage(tmp_path / "r", "a", 2, 2)
    for slot, (rate, loss) in enumerate([(10, 1.0), (30, 2.0)]):
        stage.log(slot, f"5_{slot}-0")
        stage.progress(slot, f"5_{slot}-0", 1, 2, os.getpid(), host="", **{"loss": loss, "req/s": rate})
    assert only(tmp_path / "r").figures == {"loss": 1.5, "req/s": 40}


def test_throughput_is_that_of_the_last_minutes(tmp_path: Path) -> None:
    stage, now = FakeStage(tmp_path / "r", "a", 100), time.time()
    stage.started(now - 10_000)
    stage.done(0, 40, now - 5_000)
    stage.done(40, 70, now - 10)
    stage.log(0, "5-0")
    assert only(tmp_path / "r").rate == pytest.approx(30 / 600)


@pytest.mark.parametrize(("done", "age", "told"), [(1, 100, False), (1, 1000, True), (6, 100, True)])
def test_no_time_is_told_from_what_is_mostly_start_up(tmp_path: Path, done: int, age: int, told: bool) -> None:
    """A first sample of 220 after a server's start would tell hours for a stage of minutes."""
    stage, now = FakeStage(tmp_path / "r", "a", 100), time.time()
    stage.started(now - age)
    stage.done(0, done, now - 1)
    stage.progress(0, "5-0", 0, 100, os.getpid())
    stage.log(0, "5-0")
    assert (only(tmp_path / "r").rate is not None) == told


def test_jobs_of_all_attempts_once(tmp_path: Path) -> None:
    stage = FakeStage(tmp_path / "r", "a", 2, 2)
    stage.submitted({"5": [0, 1]}, 0)
    stage.submitted({"7": [1]}, 1)
    assert list(job_names(tmp_path / "r")) == ["5", "7"]
    assert only(tmp_path / "r", {"5_0": Row("RUNNING"), "5_1": Row("FAILED"), "7": Row("RUNNING")}).running == 2


def test_a_folder_without_a_plan_is_no_stage(tmp_path: Path) -> None:
    FakeStage(tmp_path / "r", "a", 1)
    (tmp_path / "r" / "code").mkdir()
    (tmp_path / "r" / "run.json").write_text("{}")
    assert len(snapshot(tmp_path / "r").stages) == 1
    assert snapshot(tmp_path / "none").stages == ()


def test_a_unit_that_was_taken_back_is_found(tmp_path: Path) -> None:
    """The last unit of a task being done speaks for the others only if the sum is right."""
    stage = FakeStage(tmp_path / "r", "a", 12, 4)
    stage.done(0, 12)
    (stage.path / "done" / "00001.json").unlink()
    (task,) = only(tmp_path / "r").unfinished_tasks
    assert (task.task_index, task.unfinished) == (0, 1)
    (stage.path / "done" / "00011.json").unlink()
    assert [(task.task_index, task.unfinished) for task in only(tmp_path / "r").unfinished_tasks] == [(0, 1), (3, 1)]


@pytest.mark.parametrize("first", [0.0, 2.0])
def test_what_is_done_is_listed_again_when_it_changed(tmp_path: Path, first: float) -> None:
    """`first`: how old the folder seems at the first look; an old one may be remembered until it changes."""
    stage = FakeStage(tmp_path / "r", "a", 3)
    stage.done(0, 1, time.time() - first * 10)
    assert only(tmp_path / "r").done == 1
    stage.done(1, 2)
    assert only(tmp_path / "r").done == 2


def test_a_hundred_thousand_units_of_four_thousand_tasks(tmp_path: Path) -> None:
    """Opens the files of tasks at work alone, and the list of units once."""
    stage = FakeStage(tmp_path / "r", "a", 100_000, 4_000)
    stage.done(0, 1, time.time() - 60)
    for key in stage.keys[1:12_510]:
        os.link(stage.path / "done" / "00000.json", stage.path / "done" / f"{key}.json")
    for slot in range(564):
        stage.log(slot, f"5_{slot}-0")
    with audit.counted("open") as opened:
        found = only(tmp_path / "r")
    tasks = found.unfinished_tasks
    assert (found.done, sum(task.unfinished for task in tasks), len(tasks)) == (
        12_510,
        87_490,
        3500,
    )
    assert opened["open"] < 300  # of some of the 500 tasks at work, and none of the 12,510 manifests


@pytest.mark.parametrize("units", [1_000, 10_000])
def test_a_look_costs_what_is_at_work_however_many_units_there_are(tmp_path: Path, units: int) -> None:
    stage = FakeStage(tmp_path / "r", "a", units, units // 10)
    stage.done(0, units // 2)
    first = units // 20
    for slot in range(first, first + 32):
        stage.log(slot, f"5_{slot}-0")
        stage.progress(slot, f"5_{slot}-0", 1, 2, os.getpid(), loss=1.0)
    snapshot(tmp_path / "r")
    with audit.counted("open", "os.listdir", "os.scandir") as looked:
        assert snapshot(tmp_path / "r").stages[0].running == 32
    assert looked["open"] < 32 + 50 and looked["os.listdir"] + looked["os.scandir"] < 50


def test_screens_start_without_the_domain() -> None:
    code = (
        "from diagcot.console.screens import failures, logs, plan as plan_screen, watch\n"
        "import sys, json\n"
        "heavy = [m for m in ('torch', 'transformers', 'vllm', 'h5py', 'numpy', 'pydantic') if m in sys.modules]\n"
        "ours = [m for m in sys.modules if m.startswith('diagcot.') and m.split('.')[1] not in ('console', 'jobs')]\n"
        "print(json.dumps([heavy, ours, len(sys.modules)]))"
    )
    heavy, ours, modules = json.loads(subprocess.check_output([sys.executable, "-c", code]))
    assert heavy == ours == [] and modules < 500


def test_what_is_on_its_way_adds_up_and_is_gone_when_the_stage_is_done(tmp_path: Path) -> None:
    stage = FakeStage(tmp_path / "r", "cot", 2, 2)
    for slot, (rate, hits) in enumerate([(100, 80), (300, 60)]):
        stage.log(slot, f"5_{slot}-0")
        told = {"tokens/s": rate, "in flight": 48, "cache hits %": hits}
        stage.progress(slot, f"5_{slot}-0", 1, 2, os.getpid(), host="", **told)
    live = only(tmp_path / "r").figures
    assert live == {"tokens/s": 400, "in flight": 96, "cache hits %": 70}
    assert text.figures(live) == "400 tokens/s, in flight 96, 70% cache hits"
    stage.done(0, 2)
    counts = {"completion_tokens": 9000, "requests": 90, "told_tokens": 1000, "cached_tokens": 750}
    stage.write(
        "summary.json",
        {"state": "done", "started": 100, "ended": 130, "seconds": 500, "startup_seconds": 50, "counts": counts},
    )
    shown_figures = text.figures(only(tmp_path / "r").figures)
    assert shown_figures == "300 tokens/s, 75% cache hits, 3 requests/s"
    for width in (80, 140):  # a narrow screen shows it too
        screen = Console(width=width, color_system=None)
        with screen.capture() as shown:
            screen.print(render(snapshot(tmp_path / "r"), screen))
        assert "share of start-up in task time: 10.0% of cot" in shown.get()


def test_a_stage_that_has_grown_is_reckoned_by_what_it_does_now(tmp_path: Path) -> None:
    now, days = time.time(), 86400 * 3
    stage = FakeStage(tmp_path / "r", "evaluate", 10, 2)
    stage.done(0, 10, now - days)
    growth = tmp_path / "r" / "grown" / "1"
    growth.mkdir(parents=True)
    keys = [f"new-{k}" for k in range(6)]
    (growth / "evaluate.jsonl").write_text("".join(json.dumps({"key": key}) + "\n" for key in keys))
    more = {"units": 6, "tasks": 3, "inputs": {}, "after": [], "settings": {}}
    (growth / "growth.json").write_text(json.dumps({"time": now - 100, "stages": {"evaluate": more}}))
    stage.started(now - days - 60, (0, "1-0"), (1, "1-1"))
    (seen,) = snapshot(tmp_path / "r").stages
    assert (seen.units, seen.tasks, seen.done, seen.pending, seen.rate) == (16, 5, 10, 6, None)
    with (stage.path / "events.jsonl").open("a") as out:
        out.write(json.dumps({"time": now - 60, "event": "started", "task": "00002", "attempt": "2-0"}) + "\n")
    stage.log(2, "2-0")
    stage.write("progress/00002.json", {"task": "00002", "attempt": "2-0", "host": os.uname().nodename, "pid": os.getpid(),
                "time": now, "unit": "new-1", "done": 0, "total": 4, "figures": {}})  # fmt: skip
    for key in keys[:1]:
        stage.write(f"done/{key}.json", {"unit": key})
    (seen,) = snapshot(tmp_path / "r", now=now).stages
    assert [(task.task_index, task.unfinished, task.state) for task in seen.unfinished_tasks] == [
        (2, 1, "running"), (3, 2, "pending"), (4, 2, "pending"),
    ]  # fmt: skip
    assert seen.rate == pytest.approx(1 / 60, rel=0.05) and seen.eta == pytest.approx(5 * 60, rel=0.05)


def test_a_finished_stage_with_nothing_in_it_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage = FakeStage(tmp_path / "r", "evaluate", 2, 1)
    stage.done(0, 2)
    needed = {"samples of task report": 12, "samples of task grounding": 0}
    stage.write("summary.json", {"state": "done", "counts": {"needed": needed, "warnings": ["base says the same"]}})
    (tmp_path / "r" / "run.json").write_text("{}")
    assert status_screen.show(tmp_path / "r") == 1  # green is for what has something in it
    shown = capsys.readouterr().out
    assert "evaluate: it has no samples of task grounding\n" in shown and "evaluate: base says the same" in shown
    assert "no samples of task report" not in shown
    needed["samples of task grounding"] = 3
    stage.write("summary.json", {"state": "done", "counts": {"needed": needed}})
    assert status_screen.show(tmp_path / "r") == 0
