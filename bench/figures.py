"""What a benchmark found: a table for a person while it runs, and one JSON line at its end."""

import json
from typing import Any


class Figures:
    """Figures by name. `ratio` is value ÷ baseline; a figure without a baseline or a goal has null there."""

    def __init__(self, bench: str) -> None:
        self.bench = bench
        self.rows: dict[str, dict[str, Any]] = {}

    def add(self, name: str, value: float, unit: str, baseline: float | None = None, goal: float | None = None) -> None:
        """`goal`: what the value is to stay at or below."""
        self.rows[name] = {
            "value": round(value, 4),
            "unit": unit,
            "baseline": None if baseline is None else round(baseline, 4),
            "ratio": round(value / baseline, 4) if baseline else None,
            "goal": goal,
            "met": None if goal is None else value <= goal,
        }

    def line(self) -> str:
        return json.dumps({"bench": self.bench, "figures": self.rows})
