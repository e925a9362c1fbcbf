"""Curves of a training stage, read from its `train.jsonl`."""

import json
from pathlib import Path
from typing import Any

_NOT_FIGURES = ("step", "epoch", "seconds")


def read(log: Path) -> dict[str, list[tuple[float, float]]]:
    """Figure -> (step, value) points in the order of the log; empty where there is none.

    A line that a kill cut short is left out.
    """
    curves: dict[str, list[tuple[float, float]]] = {}
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else ():
        try:
            row: dict[str, Any] = json.loads(line)
            step = float(row["step"])
        except (ValueError, LookupError, TypeError):
            continue
        for name, value in row.items():
            if name not in _NOT_FIGURES and isinstance(value, int | float):
                curves.setdefault(name, []).append((step, float(value)))
    return curves
