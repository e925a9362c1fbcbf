"""Runs of `executor: debug`: what a failure prints and what the screens show of it."""

import io
import shutil
import sys
from pathlib import Path

import pytest

from diagcot.cli.main import main
from diagcot.console.screens import failures, logs
from diagcot.console.screens.failures import CHECKOUT
from diagcot.console.state.executor import query
from diagcot.console.state.status import snapshot
from diagcot.jobs import Pipeline, UserError, pipeline
from diagcot.jobs.state import failures as raised
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
