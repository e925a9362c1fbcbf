"""Held-out reward with its bootstrap interval, and what training gained."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from diagcot.jobs import Context
from diagcot.metrics.intervals import Bootstrap, mean
from diagcot.rewards.score import Score
from diagcot.training.monitoring import log

FILE = "validation.jsonl"
PREFIX = "validation_"


def figures(scores: Sequence[Score], patients: Sequence[str], seed: int) -> dict[str, float]:
    """Mean of every component (`overall` as reward, without the gate's terms), and reward's 95 % interval."""
    interval = Bootstrap(patients, seed=seed).interval(mean([score["overall"] for score in scores]))
    values = {"reward": interval.value, "low": interval.low, "high": interval.high, **component_means(scores)}
    return {PREFIX + name: value for name, value in values.items()}


def component_means(scores: Sequence[Score]) -> dict[str, float]:
    """Mean of every component except `overall`, over the scores that have it."""
    names = dict.fromkeys(name for score in scores for name in score if name != "overall")
    values = {name: [score[name] for score in scores if name in score] for name in names}
    return {name: sum(column) / len(column) for name, column in values.items()}


def figure(values: Mapping[str, float], name: str) -> float:
    """Validation's figure of that name. Raises ValueError that lists the available ones."""
    if PREFIX + name not in values:
        known = ", ".join(key.removeprefix(PREFIX) for key in values)
        raise ValueError(f"best: {name} is not a figure of validation; available: {known}")
    return values[PREFIX + name]


class ValidationRecord:
    """The workspace's validations, one line each: the step and every prompt's reward. For rank 0.

    patients: of the prompts, in their order; the clusters of the bootstrap.
    """

    def __init__(self, ctx: Context, patients: Sequence[str], seed: int) -> None:
        self._path, self._patients, self._seed = ctx.workspace / FILE, list(patients), seed

    def rewind(self, step: int) -> None:
        """Keep the validations up to `step`."""
        log.rewind(self._path, step)

    def add(self, step: int, scores: Sequence[Score]) -> None:
        """Record the scores of `step`, once."""
        if step not in self._rows():
            row = {"step": step, "rewards": [score["overall"] for score in scores]}
            log.append(self._path, json.dumps(row) + "\n")

    def gain(self, step: int) -> dict[str, float]:
        """Held-out reward before training and at `step`, and their paired difference with its 95 % interval.

        Empty unless both have been recorded.
        """
        rows = self._rows()
        if 0 not in rows or step not in rows:
            return {}
        difference = Bootstrap(self._patients, seed=self._seed).difference(mean(rows[step]), mean(rows[0]))
        before, after = (sum(rows[number]) / len(rows[number]) for number in (0, step))
        return {
            "validation_before": before,
            "validation_after": after,
            "gain": difference.value,
            "gain_low": difference.low,
            "gain_high": difference.high,
        }

    def _rows(self) -> dict[int, list[float]]:
        if not self._path.is_file():
            return {}
        rows: dict[int, list[float]] = {}
        for line in self._path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError, LookupError, TypeError):  # cut short by a kill
                row = json.loads(line)
                rows[row["step"]] = row["rewards"]
        return rows


def best_folder(ctx: Context) -> Path:
    """Where the best weights wait for the end of the stage."""
    return ctx.workspace / "best"
