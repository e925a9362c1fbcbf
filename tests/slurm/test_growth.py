"""A run that grows on real daemons: only new units are submitted, unit by unit edges included; refused while it moves."""

import json
import time
from pathlib import Path

import pytest

from diagcot.console.state.executor import query
from diagcot.console.state.status import snapshot
from diagcot.jobs import Pipeline, UserError, chain
from diagcot.jobs.plans.plan import read
from diagcot.jobs.state import attempts
from tests.grids import grid, table

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("devcluster")]
ON = {"resource_profiles": {"small": {"partition": "cpu", "minutes": 5, "mem_gb": 0.5}}, "warning_seconds": 20}


def flow(root: Path, *models: str) -> Pipeline:
    return grid(root, "slurm", models, on=ON)


def finished(made: Pipeline, seconds: float = 150) -> None:
    end = time.monotonic() + seconds
    while any(chain.alive(made.run_dir / plan.stage) for plan in made.plans):
        assert time.monotonic() < end, "jobs are left"
        time.sleep(0.5)


def test_a_run_on_slurm_grows_when_it_has_ended(shared_path: Path) -> None:
    first = flow(shared_path, "a", "b")
    first.submit()
    with pytest.raises(UserError, match=r"cannot grow now: stage cells is queued or running.*make cancel"):
        flow(shared_path, "a", "b", "c").submit()
    finished(first)
    assert len(table(shared_path)) == 1 + 6 * 3
    again = flow(shared_path, "a", "b", "c")
    again.write()  # a launcher that is killed here has grown the run and submitted nothing
    told = {row.stage: (row.state, row.tasks) for row in again.submit()}
    assert told == {
        "a": ("complete", 0), "b": ("complete", 0), "c": ("submitted", 1), "cells": ("submitted", 3),
        "checks": ("submitted", 3), "table": ("submitted", 1),
    }  # fmt: skip
    cells, checks = (attempts.read(again.run_dir / name) for name in ("cells", "checks"))
    assert [array.tasks for made in cells for array in made.arrays] == [(0, 1, 2, 3, 4, 5), (6, 7, 8)]
    assert f"aftercorr:{cells[1].arrays[0].job}" in checks[1].arrays[0].after
    assert {row.state for row in again.submit()} <= {"complete", "queued"}
    finished(again)
    assert len(table(shared_path)) == 1 + 9 * 3 and table(shared_path)[0] == read(again.run_dir / "table").keys[1]
    for name in ("cells", "checks"):
        logs = sorted(path.name.split(".")[0] for path in (again.run_dir / name / "out").glob("*.log"))
        assert logs == [f"{task_index:05d}" for task_index in range(9)]  # each task was run once
        summary = json.loads((again.run_dir / name / "summary.json").read_text())
        assert (summary["state"], summary["units"], summary["attempts"]) == ("done", 9, 2)
    seen = snapshot(again.run_dir, query(again.run_dir))
    assert seen.state == "done" and [(s.name, s.done, s.units) for s in seen.stages][3:] == [
        ("cells", 9, 9), ("checks", 9, 9), ("table", 2, 2),
    ]  # fmt: skip
