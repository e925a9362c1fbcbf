"""Held-out reward with its bootstrap interval, what training gained, and the best weights."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diagcot.jobs import Context, Result
from diagcot.metrics.intervals import Bootstrap, mean
from diagcot.rewards.score import Score
from diagcot.training.monitoring import log

FILE = "validation.jsonl"
PREFIX = "validation_"


def figures(scores: Sequence[Score], patients: Sequence[str], seed: int) -> dict[str, float]:
    """Mean of every component (`overall` as reward, without the gate's terms), and reward's 95 % interval."""
    span = Bootstrap(patients, seed=seed).interval(mean([score["overall"] for score in scores]))
    found = {"reward": span.value, "low": span.low, "high": span.high, **components(scores)}
    return {PREFIX + name: value for name, value in found.items()}


def components(scores: Sequence[Score]) -> dict[str, float]:
    """Mean of every component but `overall` over the scores that have it."""
    names = dict.fromkeys(name for score in scores for name in score if name != "overall")
    having = {name: [score[name] for score in scores if name in score] for name in names}
    return {name: sum(values) / len(values) for name, values in having.items()}


class Record:
    """The workspace's validations, one line each: the step and every prompt's reward. For rank 0."""

    def __init__(self, ctx: Context, patients: Sequence[str], seed: int) -> None:
        self._path, self._patients, self._seed = ctx.workspace / FILE, list(patients), seed

    def rewind(self, step: int) -> None:
        log.rewind(self._path, step)

    def add(self, step: int, scores: Sequence[Score]) -> None:
        if step not in self._rows():
            log.append(self._path, json.dumps({"step": step, "rewards": [score["overall"] for score in scores]}) + "\n")

    def gain(self, step: int) -> dict[str, float]:
        """Held-out reward before training and at `step`, and the difference with its 95 % interval, paired."""
        rows = self._rows()
        if 0 not in rows or step not in rows:
            return {}
        difference = Bootstrap(self._patients, seed=self._seed).difference(mean(rows[step]), mean(rows[0]))
        before, after = (sum(rows[one]) / len(rows[one]) for one in (0, step))
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
        rows = map(json.loads, self._path.read_text(encoding="utf-8").splitlines())
        return {row["step"]: row["rewards"] for row in rows}


def named(found: Mapping[str, float], wanted: str) -> float:
    """Validation's figure of that name. Raises ValueError that lists those there are."""
    if PREFIX + wanted not in found:
        known = ", ".join(name.removeprefix(PREFIX) for name in found)
        raise ValueError(f"best: {wanted} is no figure of validation; there are {known}")
    return found[PREFIX + wanted]


def best_folder(ctx: Context) -> Path:
    """Where the best weights wait for the end of the stage."""
    return ctx.workspace / "best"


def export(ctx: Context, counts: dict[str, Any]) -> Result:
    """The best weights as the stage's product, with the counts and the log that `training.export` writes."""
    final, rows = ctx.output / "model", ctx.output / "train.jsonl"
    if ctx.rank:
        return Result(counts=counts)
    staged, staged_rows = ctx.staged(final), ctx.staged(rows)
    shutil.rmtree(staged, ignore_errors=True)
    shutil.copytree(best_folder(ctx), staged)
    (staged / "diagcot.json").write_text(json.dumps({"stage": ctx.stage, "run": ctx.run, **counts}, indent=1))
    shutil.copyfile(ctx.workspace / "train.jsonl", staged_rows)
    return Result(outputs={final: staged, rows: staged_rows}, counts=counts)
