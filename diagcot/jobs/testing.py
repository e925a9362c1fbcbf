"""A context and a run of one unit in the calling process, for tests and for trying a kind by hand."""

import os
from pathlib import Path
from typing import Any

from diagcot.jobs.execution.context import Context, Result
from diagcot.jobs.plans.units import Unit
from diagcot.jobs.state.ledger import publish


def context(root: Path, settings: dict[str, Any] | None = None, **overrides: Any) -> Context:
    """A context whose run lives under `root`: logs/, shards/ and models/ as in a real one."""
    stage = overrides.get("stage", "stage")
    values: dict[str, Any] = {
        "run": "test",
        "stage": stage,
        "settings": settings or {},
        "inputs": {},
        "output": root / "shards" / "test" / stage,
        "workspace": root / "models" / "test" / ".work" / stage,
        "stage_dir": root / "logs" / "test" / stage,
        "shards_root": root / "shards",
        "seed": 7,
        "attempt": os.urandom(4).hex(),
        "cpus": 2,
    } | overrides
    made = Context(**values)
    for folder in (made.output, made.workspace, made.stage_dir):
        folder.mkdir(parents=True, exist_ok=True)
    return made


def run_unit(kind: Any, unit: Unit, ctx: Context) -> Result | None:
    """Open the kind, run one unit and publish it, as a worker does."""
    with kind.prepare(ctx) as shared:
        result: Result | None = kind.run(unit, shared, ctx)
    if result is not None and ctx.rank == 0:
        publish(ctx.stage_dir, unit.key, result.outputs, result.counts, {"attempt": ctx.attempt})
    return result
