"""A run that was planned for one model and grows by another, to the end of all its stages."""

import json
import os
from pathlib import Path
from typing import Any

from diagcot.jobs import Pipeline, summary
from diagcot.jobs.execution.worker import work
from diagcot.jobs.plans import segments
from diagcot.jobs.plans.plan import read
from diagcot.jobs.state import ledger
from tests import grids
from tests.kinds import count, gather, relay

__all__ = ["kinds", "outcome", "prepare", "run"]
kinds = (count, gather, relay)  # imported here, once, and not again by every execution


def flow(root: Path, models: list[str]) -> Pipeline:
    made = grids.grid(root, "debug", models, shards=1)
    made.code_roots = [Path(grids.__file__)]  # to copy all of the code is row 16's
    return made


def prepare(root: Path) -> None:
    """The run of one model, to its end."""
    if not (root / "logs").exists():
        _submit(flow(root, ["a"]))


def run(root: Path) -> None:
    """Submit the recipe that has one model more."""
    _submit(flow(root, ["a", "b"]))


def _submit(made: Pipeline) -> None:
    plans = made.write()
    child = os.fork()  # to disturb what tasks do is the other scenario's
    if child:
        assert os.waitpid(child, 0)[1] == 0
        return
    code = 1
    try:
        for plan in plans:
            for task_index in plan.open_tasks():
                work(plan.path, task_index)
            missing = summary.check(plan)
            summary.summarise(plan, missing)
            assert not missing, missing
        code = 0
    finally:
        os._exit(code)


def outcome(root: Path) -> Any:
    """The bytes of all products, the units in their places, what is done, and how often the run has grown."""
    folder = root / "shards" / root.name
    files = (path for path in sorted(folder.rglob("[!.]*")) if path.is_file())
    products = {str(path.relative_to(folder)): path.read_text() for path in files}
    folder = root / "logs" / root.name
    plans = [read(path.parent) for path in sorted(folder.glob("*/plan.json"))]
    units = {plan.stage: [plan.keys, [segment[:2] for segment in plan.segments]] for plan in plans}
    done = {plan.stage: sorted(ledger.done_keys(plan.path)) for plan in plans}
    grown = [[sorted(growth["stages"]), growth["joined"]] for _, growth in segments.growths(folder)]
    listed = (folder / "stages").read_text() if (folder / "stages").exists() else ""
    return json.loads(
        json.dumps({"products": products, "units": units, "done": done, "grown": grown, "listed": listed})
    )
