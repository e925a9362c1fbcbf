"""Runs of `executor: debug`: what a failure prints and what the screens show of it."""

import io
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from diagcot.cli.main import main
from diagcot.cli.reference import run_files
from diagcot.console.screens import failures, logs
from diagcot.console.screens.failures import CHECKOUT
from diagcot.console.state.executor import query
from diagcot.console.state.status import snapshot
from diagcot.jobs import Pipeline, UserError, names, pipeline
from diagcot.jobs.plans.plan import read
from diagcot.jobs.state import failures as raised
from diagcot.jobs.state import runner
from tests import chains


def flow(root: Path, **settings: str) -> Pipeline:
    on = chains.cluster("debug", roots={"logs": "logs", "shards": "out", "models": "work"})
    run = Pipeline("run", on, root, code=[chains.ROOT / "tests" / "kinds"])
    run.stage("first", "tests.kinds.count", ["a", "b"], "small", settings=settings)
    return run


def test_a_failure_counts_and_prints_one_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())  # not a terminal: pdb would fail at the end of the input
    run = flow(tmp_path, fail="b")
    for _ in range(2):
        with pytest.raises(RuntimeError):
            run.submit()
    output = capsys.readouterr()
    assert "Traceback" not in output.out + output.err  # Python prints the one that leaves the program
    state = snapshot(run.run_dir, query(run.run_dir))
    assert (state.state, state.stages[0].failed, state.stages[0].pending) == ("failed", 1, 0)
    assert main(["failures", "--run", "run", "--logs", str(tmp_path / "logs")]) == 1
    assert "first: RuntimeError  blocks 1 unit" in capsys.readouterr().out


def test_the_same_line_in_the_checkout_and_in_the_copy_is_one_failure(tmp_path: Path) -> None:
    run = flow(tmp_path)
    run.write()
    stage_dir = run.run_dir / "first"
    for attempt, root in (("one", CHECKOUT), ("two", run.code)):
        raised.write(stage_dir, "00000", attempt, 0, "a", RuntimeError("no"))
        path = stage_dir / "failed" / f"00000.{attempt}.r0.json"
        path.write_text(path.read_text().replace('"where": []', f'"where": ["{root}/diagcot/text.py:7 read"]'))
    stage = snapshot(run.run_dir, query(run.run_dir)).stages[0]
    assert [failure.times for failure in failures.failures(stage)] == [2]


def test_a_finished_run_is_done_and_has_no_logs(tmp_path: Path) -> None:
    run = flow(tmp_path)
    assert [row.state for row in run.submit()] == ["done"]
    for arguments in ((None, None), ("first", None), ("first", "a")):
        with pytest.raises(UserError, match="executor: debug`, whose output goes to the terminal"):
            logs.find(run.run_dir, *arguments)


def test_retry_runs_in_this_process(tmp_path: Path) -> None:
    run = flow(tmp_path)
    run.submit()
    shutil.rmtree(run.run_dir / "first" / "done")
    assert [row.state for row in pipeline.retry_stage(run.run_dir, "first")] == ["done"]
    assert not run.plans[0].missing()
    assert not (run.run_dir / "runner.log").exists()


def test_a_run_that_is_worked_on_is_not_run_a_second_time(tmp_path: Path) -> None:
    run = flow(tmp_path)
    run.write()
    held = runner.lock(run.run_dir)
    assert held is not None
    with held, pytest.raises(UserError, match="stage first was not submitted: run run is being worked on"):
        run.submit()
    assert len(run.plans[0].missing()) == 2
    assert [row.state for row in run.submit()] == ["done"]
    assert runner.elsewhere(run.run_dir) == "" and runner.process_id(run.run_dir) is None


AT_ONCE = """
import sys, time
from pathlib import Path
from diagcot.jobs import UserError
from tests.unit.console.test_debug_run import flow
root = Path(sys.argv[1])
run = flow(root, **{"await": str(root / "end")})
(root / sys.argv[2]).touch()
while not (root / "begin").exists():
    time.sleep(0.001)
try:
    run.submit()
except UserError as error:
    sys.exit(str(error))
"""


def test_of_two_submissions_at_once_one_goes_on_and_the_other_says_so(tmp_path: Path) -> None:
    """The task of the one that goes on ends only after the other has ended."""

    def wait(is_so: Callable[[], object], what: str) -> None:
        end = time.monotonic() + 30
        while not is_so():
            assert time.monotonic() < end, what
            time.sleep(0.01)

    def start(name: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", AT_ONCE, str(tmp_path), name]
        return subprocess.Popen(command, cwd=chains.ROOT, text=True, stderr=subprocess.PIPE)

    both = {name: start(name) for name in ("one", "two")}
    try:
        wait(lambda: all((tmp_path / name).exists() for name in both), "they have not started")
        (tmp_path / "begin").touch()
        wait(lambda: any(process.poll() is not None for process in both.values()), "both are at work")
        refused = next(process for process in both.values() if process.poll() is not None)
        said = refused.communicate()[1]
        assert refused.returncode == 1 and "run run is being worked on" in said, said
        (tmp_path / "end").touch()
        assert sorted(process.wait(30) for process in both.values()) == [0, 1]
    finally:
        for process in both.values():
            process.kill()
            process.wait()
    stage_dir = tmp_path / "logs" / "run" / "first"
    events = [json.loads(line)["event"] for line in (stage_dir / "events.jsonl").read_text().splitlines()]
    assert events.count("started") == 2 and not read(stage_dir).missing()  # once for each unit


def test_no_stage_may_have_the_name_of_what_lies_in_the_folder_of_a_run(tmp_path: Path) -> None:
    run = flow(tmp_path)
    run.submit()
    found = {path.name for path in run.run_dir.iterdir()} - {"first"}
    documented = {name.partition("/")[0] for names in run_files.RUN_FILES for name in names.split(", ")}
    assert {"environments", "code", "stages", "run.json"} <= found
    for name in found | documented:
        with pytest.raises(UserError, match="stage name="):
            names.check_stage(name.replace("<n>", "1"))
