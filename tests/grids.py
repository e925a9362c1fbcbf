"""A grid of light units as the evaluation's is: models x shards, a stage that follows it unit by unit, and a table."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diagcot.jobs import Pipeline, Unit
from tests import chains

SHARDS = 3


def grid(root: Path, executor: str, models: Sequence[str], tokens: int = 1, **more: Any) -> Pipeline:
    """The stages of `models`, `cells` (two units a task at most), `checks` unit by unit after it, and `table`.

    tokens stands in the units' parameters; `settings` and `grows` (of the table) are as in `Pipeline.stage`; `on` are
    further fields of the cluster.
    """
    on = chains.cluster(
        executor, roots={name: str(root / name) for name in ("logs", "shards", "models")}, **more.get("on", {})
    )
    flow = Pipeline(root.name, on, root, code=[chains.ROOT / "tests"], keep={"recipe.yaml": " ".join(models) + "\n"})
    size = more.get("size", "small")
    built = [flow.stage(model, "tests.kinds.count", ["model"], size, number="1") for model in models]
    units = [Unit(f"{model}.{k}", {"tokens": tokens}) for model in models for k in range(more.get("shards", SHARDS))]
    settings = {"records": 3, "tokens": tokens} | more.get("settings", {})
    growing: dict[str, Any] = {"grows": "units", "selector_settings": ["tokens"], "startup_s": 10, "unit_s": 120}
    cells = flow.stage(
        "cells", "tests.kinds.count", units, size, settings=settings, inputs={"models": built}, **growing
    )
    checks = flow.stage(
        "checks", "tests.kinds.relay", units, size, elementwise=[cells], inputs={"source": [cells]}, **growing
    )
    content = hashlib.sha256(" ".join(unit.key for unit in units).encode()).hexdigest()[:8]
    flow.stage(
        "table",
        "tests.kinds.gather",
        [f"all.{content}"],
        size,
        inputs={"cells": [checks]},
        number="eval",
        grows=more.get("grows", "anew"),
    )
    return flow


def table(root: Path) -> list[str]:
    """The lines of the table, its unit first."""
    return (root / "shards" / root.name / "table" / "table.txt").read_text().splitlines()
