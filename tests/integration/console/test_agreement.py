"""`make status`, `make watch`, `summary.json` and the report tell the same of one run: units, retries, failures, GPU-hours."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from diagcot.console.screens import status as status_screen
from diagcot.console.screens.failures import failures
from diagcot.console.screens.watch import Lines, Watch
from diagcot.console.state.executor import query
from diagcot.console.state.run import Run
from diagcot.console.state.status import snapshot
from diagcot.evaluation.report import history, report
from tests import chains
from tests.grids import grid

# Of the first model a unit raises once, of the second one ends without a word and another raises for ever.
MORE: dict[str, Any] = {
    "shards": 2,
    "settings": {"fail_once": "a.1", "fail": "b.1", "mishaps": {"b.0": ["exit 3"]}, "seconds": 0.2},
    "on": {"resource_profiles": {"small": {"gpus": 1000}}},  # so that seconds are hours
}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with retries and failures that has grown, and has units that are not done."""
    root = tmp_path_factory.mktemp("run")
    flow = grid(root, "local", ["a"], **MORE)
    flow.submit()
    chains.wait_for_end(flow.run_dir, 0)
    flow = grid(root, "local", ["a", "b"], **MORE)
    flow.submit()
    chains.wait_for_end(flow.run_dir, 1)
    return flow.run_dir


@pytest.fixture
def run(run_dir: Path) -> Run:
    return snapshot(run_dir, query(run_dir))


def test_the_files_are_counted_alike(run: Run, run_dir: Path) -> None:
    told = {stage.name: stage for stage in history.stages(run_dir)}
    assert list(told) == [stage.name for stage in run.stages] == ["a", "b", "cells", "checks", "table"]
    for stage in run.stages:
        other = told[stage.name]
        assert (stage.units, stage.done, stage.attempts) == (other.units, other.done, len(other.submissions))
        assert (stage.retries, stage.failures) == (other.retries, len(other.failures))
        assert stage.gpu_spent == pytest.approx(other.gpu_hours) and (stage.gpu_spent > 0) == (stage.done > 0)
        if (run_dir / stage.name / "summary.json").exists():
            summary = json.loads((run_dir / stage.name / "summary.json").read_text())
            assert (summary["units"], len(summary["missing"])) == (stage.units, stage.units - stage.done)
            assert (summary["attempts"], summary["retries"]) == (stage.attempts, stage.retries)
            assert summary["failures"] == stage.failures and summary["gpu_hours"] == pytest.approx(stage.gpu_spent)
            assert summary["state"] == stage.state
    cells = run.stages[2]
    assert (cells.units, cells.attempts, cells.failures, cells.state) == (4, 2, 3, "failed")
    assert cells.units - cells.done == cells.failed + cells.pending + cells.unknown > 0
    assert sum(failure.units for failure in failures(cells)) == cells.failed
    # Every execution has one log: a task's first, and its retries.
    logs = list((cells.path / "out").glob("*.log"))
    assert len(logs) == len({path.name.split(".")[0] for path in logs}) + cells.retries and cells.retries >= 3


def rows(text: str, pattern: str) -> Iterator[tuple[str, ...]]:
    return (match.groups() for line in text.splitlines() if (match := re.search(pattern, line)))


def test_the_screens_and_the_report_say_the_same(run: Run, run_dir: Path) -> None:
    screen = Console(width=160, record=True, file=io.StringIO())
    screen.print(status_screen.render(run, screen))
    status = screen.export_text()
    watched = Watch(run_dir).snapshot()
    lines = "\n".join(Lines().changes(watched))
    nothing = {"samples": 0}
    metrics = {"run": "r", "rows": [], "columns": [], "verdicts": [], "missing": {}, "interval": "", "tokenizer": ""}
    page = report.markdown(metrics | {"phantom": nothing}, history.stages(run_dir))
    reported = {
        name: more for name, *more in rows(page, r"^\| (\w+) \| (\d+/\d+) \|.* \| ([\d.]+) \| (\d+) \| \d+ \|$")
    }
    shown = {name: units for name, units in rows(status, r"^\S+ +(\w+) .*?(\d+/\d+)")}
    said = {name: units for name, units in rows(lines, r"^[\d:]+ (\w+): (\d+/\d+) done")}
    assert shown == {name: units for name, (units, _, _) in reported.items()} and len(shown) == 5
    assert said == {name: units for name, units in shown.items() if name in said} and {"cells", "a", "b"} <= said.keys()
    for name, (units, _, count) in reported.items():
        mine = [line for line in [*status.splitlines(), *lines.splitlines()] if f" {name}" in line and units in line]
        assert len(mine) == 2 if name in said else 1
        for line in mine:
            assert re.findall(r"(\d+) retr(?:y|ies)\b", line) == ([count] if int(count) else [])
    assert int(reported["cells"][2]) >= 3
    (total,) = (float(spent) for (spent,) in rows(status, r"; ([\d.]+) GPU-hours spent"))
    assert total == pytest.approx(sum(float(hours) for _, hours, _ in reported.values()), abs=0.05) and total > 0
