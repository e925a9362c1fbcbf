"""Two runs side by side: their models on the samples that both answered, and what the runs cost."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from diagcot.evaluation import predictions
from diagcot.evaluation.report import history
from diagcot.evaluation.scores import own_numbers
from diagcot.evaluation.scores.columns import BY_NAME, Column
from diagcot.evaluation.scores.table import judge, table
from diagcot.evaluation.scores.text_tools import TextTools
from diagcot.evaluation.scores.verdicts import verdicts
from diagcot.evaluation.settings import AggregateSettings
from diagcot.jobs import UserError
from diagcot.jobs.plans import differences
from diagcot.jobs.state import documents
from diagcot.tasks.identity import Ids
from diagcot.tasks.predictions import Prediction

_METRICS = documents.Format(
    {"models?": [str], "draws?": int, "columns?": [{"name": str, "title": str, "task": str, "low?": bool}]},
    "Run the aggregation of its run again",
)


def compare(one: Path, two: Path, draws: int | None = None) -> tuple[dict[str, Any], list[dict[str, Any]], list[str]]:
    """A table like metrics.json, what each run cost, and what a reader must know of the comparison.

    Every model that both runs have is a pair of rows, `A:model` and `B:model`; if they share no name, the last model of
    each is. Differences are paired over the same samples, and scored again by the same code. draws: those of the first
    run's table, if None. Raises UserError where a
    run has no predictions, one id for two answers of a model, or the two have no sample in common.
    """
    rows = [_read(run) for run in (one, two)]
    names = [_order(run, mine) for run, mine in zip((one, two), rows, strict=True)]
    shared = [model for model in names[0] if model in names[1]]
    pairs = [(model, model) for model in shared] or [(names[0][-1], names[1][-1])]
    by_image = all(predictions.IMAGES in row.about for mine in rows for row in mine if row.images)
    if not by_image:
        rows = [[_without_images(row) for row in mine] for mine in rows]
    ids = [{_key(row) for row in mine} for mine in rows]
    common = ids[0] & ids[1]
    other = {key[:2] for key in ids[0] - common} & {key[:2] for key in ids[1] - common}
    why = (
        f"{len(other)} have an id that both runs have and another image or reference, so they are about other data: another"
        " seed draws other phantoms, other settings make other questions"
        if other
        else ""
    )
    if not common:
        raise UserError(
            f"{one.name} and {two.name} have no sample in common: they were evaluated on other data"
            + (f" ({why})" if why else "")
        )
    notes = [f"differs: {line}" for line in differences.between(one, two)]
    if not by_image:
        notes.append(
            "samples are paired by id and reference alone: a run of an earlier version does not know its images"
        )
    if why:
        notes.append(f"of the samples that are not in both runs {why}")
    for run, mine in zip((one, two), ids, strict=True):
        if left := len(mine - common):
            notes.append(f"{left} of {len(mine)} samples of {run.name} are not in the other run and are left out")
    chosen: list[Prediction] = []
    models: list[str] = []
    for pair in pairs:
        for letter, theirs, model in zip("AB", rows, pair, strict=True):
            models.append(f"{letter}:{model}")
            chosen += [_renamed(row, models[-1]) for row in theirs if row.model == model and _key(row) in common]
    own, left_out = _own_columns(one, two, chosen)
    notes += left_out
    found = table(chosen, models, TextTools(), draws or _draws(one), own=own)
    pairs_of_rows = _paired(found["rows"])
    # The differences that are left are corrected for their own number.
    judge(pairs_of_rows, BY_NAME | {column.name: column for column in own})
    sentences = [v for v in verdicts(pairs_of_rows, found["columns"]) if v["model"][0] == "B"]
    name = f"A {one.name}, B {two.name}"
    metrics = {"run": name, "time": time.time(), **found, "rows": pairs_of_rows, "verdicts": sentences}
    return metrics, [_cost(run) for run in (one, two)], notes


def _read(run: Path) -> list[Prediction]:
    path = run / "predictions.parquet"
    if not path.exists():
        raise UserError(f"{path} is not there: the run's last stage writes it (make submit-eval RUN={run.name})")
    ids, rows = Ids("the answer to", predictions.REMEDY), list(predictions.read_parquet(path))
    if not any(row.split == "test" for row in rows):
        raise UserError(
            f"{path} holds no answer of the test split: run the aggregation of its run again, or compare another run"
        )
    for row in rows:
        ids.add((row.task, row.model, row.id), path, name=f"{row.id} (task {row.task}) by {row.model}")
    return rows


def _own_columns(one: Path, two: Path, rows: Sequence[Prediction]) -> tuple[list[Column], list[str]]:
    """The columns of the users' own metrics that both runs have, and a note on each other one."""
    known = [_table(run).get("columns", []) for run in (one, two)]
    first, second = ({c["name"]: c for c in some if c["name"] not in BY_NAME} for some in known)
    columns, notes = [], []
    for name, column in {**second, **first}.items():
        asked = [row for row in rows if row.task == column["task"]]
        if name in first and name in second and asked and all(name in own_numbers.numbers(row) for row in asked):
            columns.append(Column(name, column["title"], column["task"], low=column.get("low", False), bounds=None))
        else:
            lacking = " and ".join(run.name for run, own in ((one, first), (two, second)) if name not in own)
            notes.append(
                f"{name} is left out: "
                + (
                    f"the table of {lacking} has no such metric"
                    if lacking
                    else "a table of an earlier version keeps no numbers"
                )
            )
    return columns, notes


def _table(run: Path) -> dict[str, Any]:
    """The run's metrics.json; empty if it has none."""
    return documents.find(run / "metrics.json", _METRICS)


def _order(run: Path, rows: Sequence[Prediction]) -> list[str]:
    """The run's models in the order of its table."""
    present = list(dict.fromkeys(row.model for row in rows))
    listed = _table(run).get("models", [])
    return sorted(present, key=lambda model: listed.index(model) if model in listed else len(listed))


def _draws(run: Path) -> int:
    return int(_table(run).get("draws", AggregateSettings().draws))


def _key(row: Prediction) -> tuple[str, ...]:
    return row.task, row.id, row.reference, *row.about.get(predictions.IMAGES, ())


def _without_images(row: Prediction) -> Prediction:
    return replace(row, about={name: value for name, value in row.about.items() if name != predictions.IMAGES})


def _renamed(row: Prediction, model: str) -> Prediction:
    return Prediction(**{**row.row(), "model": model})


def _paired(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of A carry no difference: what is above them is another pair."""
    kept = []
    for row in rows:
        dropped = ("base", "start") if row["model"].startswith("A:") else ("base",)
        scores = {name: {k: v for k, v in cell.items() if k not in dropped} for name, cell in row["scores"].items()}
        kept.append({**row, "scores": scores})
    return kept


def _cost(run: Path) -> dict[str, Any]:
    stages = history.stages(run)
    recipes = [digest for name, digest in history.versions(run).items() if name.startswith("recipe")]
    return {
        "run": run.name,
        "stages": len(stages),
        "gpu_hours": sum(stage.gpu_hours for stage in stages),
        "work_s": sum(stage.seconds for stage in stages),
        "failures": sum(len(stage.failures) for stage in stages),
        "recipe": recipes[-1].removeprefix("sha256 ")[:12] if recipes else "unknown",  # that of the last growth
    }
