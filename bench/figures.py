"""What a benchmark found: a table for a person while it runs, and one JSON line at its end."""

import json
from typing import Any, Literal


class Figures:
    """Figures by name. `ratio` is value ÷ baseline; a figure without a baseline or a goal has null there."""

    def __init__(self, bench: str) -> None:
        self.bench = bench
        self.rows: dict[str, dict[str, Any]] = {}

    def add(
        self,
        name: str,
        value: float,
        unit: str,
        baseline: float | None = None,
        goal: float | None = None,
        *,
        least: bool = False,
        of: Literal["value", "ratio"] = "value",
    ) -> None:
        """`goal`: what the value, or its ratio to the baseline, is to stay at or below; `least`: at or above."""
        ratio = value / baseline if baseline else None
        judged = value if of == "value" else ratio
        met = None if goal is None or judged is None else (judged >= goal if least else judged <= goal)
        self.rows[name] = {
            "value": round(value, 4),
            "unit": unit,
            "baseline": None if baseline is None else round(baseline, 4),
            "ratio": None if ratio is None else round(ratio, 4),
            "goal": goal,
            "met": met,
        }

    def line(self) -> str:
        """All figures as one line of JSON."""
        return json.dumps({"bench": self.bench, "figures": self.rows})
