"""The kinds of stages by name. A kind is imported when it is asked for, so that planning stays fast."""

import importlib
from functools import cache
from pathlib import Path
from typing import Any

from launchers.stage_kind import StageKind

RENAMED = {"primer": "synthetic-sft"}
"""Old names of kinds, accepted in recipes for one release."""


@cache
def modules() -> dict[str, str]:
    """Name of every kind -> import path of the module that declares it."""
    files = sorted(Path(__file__).parent.glob("*/[a-z]*.py"))
    return {path.stem.replace("_", "-"): f"launchers.{path.parent.name}.{path.stem}" for path in files}


def find(name: str) -> StageKind[Any] | None:
    """The kind of that name; None if there is none."""
    path = modules().get(name)
    if path is None:
        return None
    kind: StageKind[Any] = importlib.import_module(path).KIND
    return kind
