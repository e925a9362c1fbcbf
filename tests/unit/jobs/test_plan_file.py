"""The files of runs keep their format: what the first version wrote is read, compared and grown as it was."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

from diagcot.jobs.plans import plan as plans
from diagcot.jobs.plans.units import Units
from diagcot.jobs.state import attempts
from diagcot.jobs.state.progress import Progress

GOLDEN = Path(__file__).parent / "golden_run"
STAGE_DIR = "/data/logs/golden/cells"  # what the golden file says; a test has its own folder


def golden_run(root: Path) -> Path:
    """A copy of the run of the first version under `root`; returns its stage's folder."""
    run_dir = root / "golden_run"
    shutil.copytree(GOLDEN, run_dir)
    path = run_dir / "cells" / "plan.json"
    path.write_text(path.read_text().replace(STAGE_DIR, str(path.parent)))
    return path.parent


def test_a_plan_of_the_first_version_is_read_whole_and_written_the_same(tmp_path: Path) -> None:
    stage_dir = golden_run(tmp_path)
    row = json.loads((stage_dir / "plan.json").read_text())
    plan = plans.read(stage_dir)
    assert [unit.key for unit in plan.units[:]] == ["a.0", "a.1", "b.0", "b.1", "c.0", "c.1"]
    assert (plan.tasks, [plan.bounds(task) for task in range(3)]) == (3, [(0, 2), (2, 4), (4, 6)])
    header = json.loads(json.dumps(plan.header()))
    [grown] = header.pop("grown")
    assert grown[:3] == [2, 1, "../grown/1/cells.jsonl"]
    more = json.loads((stage_dir.parent / "grown/1/growth.json").read_text())["stages"]["cells"]
    now = {name: more[name] for name in ("inputs", "after", "settings")}
    assert header == row | now | {"units": 6, "tasks": 3}
    assert list(header) == list(row)


def test_a_plan_as_the_first_version_made_it_is_no_other_plan(tmp_path: Path) -> None:
    stage_dir = golden_run(tmp_path)
    shutil.rmtree(stage_dir.parent / "grown")
    found = plans.read(stage_dir)
    plan = replace(found, units=Units(found.units[:]))
    assert plans.write(plan).header() == found.header()
    before = (stage_dir / "plan.json").read_text()
    shutil.rmtree(stage_dir)
    plans.write(plan)
    written = json.loads((stage_dir / "plan.json").read_text())
    assert written | {"created": 0} == json.loads(before) | {"created": 0}
    assert list(written) == list(json.loads(before))


def test_a_submission_of_the_first_version_is_read_and_written_the_same(tmp_path: Path) -> None:
    row = {
        "number": 1, "why": "submitted",
        "arrays": [{"job": "7", "slots": [0, 2], "name": "r.s.1", "after": "afterok:3", "resources": {"minutes": 5}}],
        "finaliser": "8", "finaliser_name": "r.s.finaliser.1", "finaliser_after": "", "by": "person", "code": "/code/abc",
        "spent": {"0": 1}, "marks": {"2": [1, 80, 2500]}, "time": 12.5,
    }  # fmt: skip
    (tmp_path / "attempts").mkdir()
    (tmp_path / "attempts" / "1.json").write_text(json.dumps(row))
    (attempt,) = attempts.read(tmp_path)
    assert attempt.arrays[0].tasks == (0, 2) and attempt.progress == {2: Progress(1, 80, 2500)}
    attempts.write(tmp_path, replace(attempt, number=2))
    written = json.loads((tmp_path / "attempts" / "2.json").read_text())
    assert list(written) == list(row) and written | {"number": 1, "time": 12.5} == row
