"""A stage of three units in two tasks, with three records a unit, from its first task to its summary."""

import json
from pathlib import Path
from typing import Any

from diagcot.jobs import Plan, summary
from diagcot.jobs.execution.worker import work
from diagcot.jobs.plans import plan as plans
from diagcot.jobs.state import ledger
from tests import chains
from tests.kinds import count as kind

__all__ = ["kind", "outcome", "run"]  # the kind is imported here, once, and not again by every execution
UNITS = 3


def stage(root: Path) -> Plan:
    return chains.plan(root, "count", UNITS, tasks=plans.pack(UNITS, 2, 19, 1))


def run(root: Path) -> None:
    """Every task that has units left, then the end of the stage."""
    if not (stage(root).path / "plan.json").exists():
        plans.write(stage(root))  # whose own faults are row 32's
    plan = plans.read(stage(root).path)
    for task_index in plan.open_tasks():
        work(plan.path, task_index)
    missing = summary.check(plan)
    summary.summarise(plan, missing)
    assert not missing, missing


def outcome(root: Path) -> Any:
    """The product's bytes, what the ledger says of them, and the sums of the stage."""
    plan = stage(root)
    product = {path.name: path.read_text() for path in plan.output.glob("[!.]*")}
    marks = {}
    for key in sorted(ledger.done_keys(plan.path)):
        row = ledger.manifest(plan.path, key) or {}
        marks[key] = [row["counts"], [output["sha256"] for output in row["outputs"].values()]]
    summary = plan.path / "summary.json"
    told = json.loads(summary.read_text()) if summary.exists() else {}
    return {"product": product, "marks": marks, "summary": {k: told.get(k) for k in ("state", "counts", "missing")}}
