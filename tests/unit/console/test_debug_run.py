"""Runs of `executor: debug`: what a failure prints and what the screens show of it."""

import io
import resource
import shutil
import sys
from pathlib import Path

import pytest

from diagcot.cli.main import main
from diagcot.cli.reference import run_files
from diagcot.console.screens import failures, logs
from diagcot.console.screens.failures import CHECKOUT
from diagcot.console.state.executor import query
from diagcot.console.state.status import snapshot
from diagcot.jobs import Pipeline, UserError, names, pipeline
from diagcot.jobs.state import failures as raised
from diagcot.jobs.state import reading, runner
from tests import chains


def flow(root: Path, fail: str = "") -> Pipeline:
    on = chains.cluster("debug", roots={"logs": "logs", "shards": "out", "models": "work"})
    run = Pipeline("run", on, root, code=[chains.ROOT / "tests" / "kinds"])
    run.stage("first", "tests.kinds.count", ["a", "b"], "small", settings={"fail": fail})
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


def test_no_stage_may_have_the_name_of_what_lies_in_the_folder_of_a_run(tmp_path: Path) -> None:
    run = flow(tmp_path)
    run.submit()
    found = {path.name for path in run.run_dir.iterdir()} - {"first"}
    documented = {name.partition("/")[0] for names in run_files.RUN_FILES for name in names.split(", ")}
    assert {"environments", "code", "stages", "run.json"} <= found
    for name in found | documented:
        with pytest.raises(UserError, match="stage name="):
            names.check_stage(name.replace("<n>", "1"))


def test_an_error_of_a_write_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as raised_error, reading.written(path) as out:
            out.writelines("x" * 100 + "\n" for _ in range(1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert raised_error.value.filename == str(path)
