"""Files of predictions: one JSON object a line, and one Parquet file of a whole run."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any

from diagcot.data import parquet
from diagcot.evaluation.settings import CLOSED, WRITTEN
from diagcot.jobs import Context, Unit, UserError
from diagcot.jobs.state import documents, json_text, reading
from diagcot.shards import Shard
from diagcot.tasks import identity
from diagcot.tasks.identity import Ids, doubled
from diagcot.tasks.predictions import BROUGHT, NUMBERS, Prediction
from diagcot.tasks.samples import ImageRef

IMAGES = "image_digests"
"""Entry of `about`: a digest of each image of the sample."""
_COLUMNS: dict[str, Any] = {
    **dict.fromkeys(("id", "study", "task", "dataset", "model", "output", "answer", "reference", "finish"), str),
    "phantom": bool, "images": [{"shard": str, "row": int}], "split": str, "question": str, "scores": {...: float},
    "about": {},
}  # fmt: skip
"""Column -> the shape of its values, as `documents` writes shapes."""
_MAY_LACK = ("split", "question", "scores", "about")
_ABOUT: dict[str, Any] = {
    "label": str, "labels": {...: int}, "options": [str], "option": str, "view": str, "report_rank": int,
    "image_rank": int, "references": [str], BROUGHT: str, IMAGES: [str], NUMBERS: {...: Real},
}  # fmt: skip
"""The same of the entries of `about`."""
_SCORED_BY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("report", "grounding", "grounding_pixels", "open", *WRITTEN), ()),
    **dict.fromkeys(CLOSED, ("options", "option")),
    "classification": ("labels",),
    "retrieval": ("report_rank", "image_rank"),
}
"""Task -> the entries of `about` without which its answers cannot be scored."""
REMEDY = (
    "the inputs of the evaluation hold one study twice. Give it each collection from one `shards` stage alone, and collections"
    " whose ids are alike names of their own"
)


def read(paths: Iterable[Path]) -> Iterator[Prediction]:
    """Predictions of JSONL files. Raises UserError that names file and line for a broken line."""
    for path in paths:
        for number, line in enumerate(reading.lines(path), 1):
            try:
                row = _prediction(_parsed(line.decode()))
            except (ValueError, TypeError, RecursionError) as error:
                raise UserError(f"{path}:{number} is not a prediction ({_why(error)}); run its stage again") from None
            yield row


class _WrongColumn(ValueError):
    """A column of another type. The message names it and shows nothing that it holds."""


def _prediction(row: Any) -> Prediction:
    """The prediction of a row, whose types are checked. Raises _WrongColumn."""
    if not isinstance(row, dict):
        raise _WrongColumn("it is no object")
    if row.keys() - _COLUMNS.keys():
        raise _WrongColumn("it has a column that no prediction has")
    for name, shape in _COLUMNS.items():
        if name in row and documents.fault(row[name], shape):
            raise _WrongColumn(f"column `{name}` has another type")
        if name not in row and name not in _MAY_LACK:
            raise _WrongColumn(f"column `{name}` is missing")
    made = Prediction(**row)
    _check_content(made)
    return made


def _check_content(row: Prediction) -> None:
    """Raise _WrongColumn for what no stage writes into a column of the right type."""
    if any(image["row"] < 0 or ImageRef(image["shard"], image["row"]).outside for image in row.images):
        raise _WrongColumn("column `images` names an image outside of the folder of shards")
    if row.task not in _SCORED_BY:
        raise _WrongColumn("column `task` names no task of this version")
    for name, shape in _ABOUT.items():
        if name in row.about and documents.fault(row.about[name], shape):
            raise _WrongColumn(f"`{name}` in column `about` has another type")
    if missing := next((name for name in _SCORED_BY[row.task] if name not in row.about), None):
        raise _WrongColumn(f"`{missing}` is missing in column `about`")


def _parsed(text: str) -> Any:
    """The value of a JSON text. Raises ValueError, also for half a character, which no file can take."""
    value = json_text.parse_json(text)
    if "\\u" in text:
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _why(error: Exception) -> str:
    """What is wrong with a row; the message of another error may show what the row holds."""
    return str(error) if isinstance(error, _WrongColumn) else type(error).__name__


def distinct(paths: Iterable[Path], *, compared: bool) -> Iterator[Prediction]:
    """Predictions as `read` gives them. Raises UserError, with both files, for two of one task, model and id.

    compared: the models are compared sample by sample, so an id must also have the same reference for all of them.
    """
    answers = Ids("the answer to", REMEDY)
    references: dict[tuple[str, str], tuple[str, Path]] = {}
    for path in paths:
        for row in read([path]):
            answers.add((row.task, row.model, row.id), path, name=f"{row.id} (task {row.task}) by {row.model}")
            reference, first = references.setdefault((row.task, row.id), (row.reference, path))
            if compared and reference != row.reference:
                name = f"{row.id} (task {row.task}), with two references,"
                raise doubled("the sample", name, first, path, REMEDY)
            yield row


def tested(unit: Unit, ctx: Context) -> dict[str, Prediction]:
    """Sample id -> the prediction of the test split, of the evaluation's unit with the same key.

    Raises UserError for an id that is there twice.
    """
    path = next(path for path in ctx.files("predictions", f"{unit.key}.jsonl"))
    return {row.id: row for row in distinct([path], compared=False) if row.split == "test"}


def joined(paths: Iterable[Path], column: str, fits: Callable[[Any], bool]) -> Iterator[dict[str, Any]]:
    """Rows about predictions (scores, verdicts), to be joined to predictions by task, model and id.

    column: what they say. fits: whether a value of it, or None where it is missing, has its type.

    Several stages may write about one unit of the evaluation, whose name their files then share. Raises UserError, with
    both files, for an id that is in the files of two units or twice in one file; and for a row of another type.
    """
    units: dict[tuple[str, str, str], Path] = {}
    for path in paths:
        own = Ids("what is said of", REMEDY)
        for number, row in enumerate(identity.rows(path, "task", "model", "id"), 1):
            if not fits(row.get(column)):
                raise UserError(f"{path}:{number} is damaged: column `{column}` has another type; run its stage again")
            key, name = (row["task"], row["model"], row["id"]), f"{row['id']} (task {row['task']}) by {row['model']}"
            own.add(key, path, name=name)
            if units.setdefault(key, path).name != path.name:
                raise doubled("what is said of", name, units[key], path, REMEDY)
            yield row


def with_images(rows: Iterable[Prediction], shards_root: Path) -> Iterator[Prediction]:
    """The predictions with digests of their images' files in `about`, by which another run's answers are paired with them."""
    known: dict[str, Shard] = {}
    for row in rows:
        for name in {image["shard"] for image in row.images} - known.keys():
            known[name] = Shard(shards_root / name)
        of_images = [
            (image_row(row, place, shard := known[image["shard"]]), shard) for place, image in enumerate(row.images)
        ]
        shown = [shard.numbers("images/sha256")[at].tobytes().hex()[:16] for at, shard in of_images]
        yield replace(row, about=row.about | {IMAGES: shown}) if shown else row


def image_row(row: Prediction, place: int, shard: Shard) -> int:
    """Where image `place` of a prediction is in its shard. Raises UserError if the shard has no such row."""
    found: int = row.images[place]["row"]
    if found >= shard.images:
        raise UserError(
            f"{row.id} is about row {found} of {shard.path}, which has {shard.images} images: it was asked of other shards;"
            " run its evaluation again"
        )
    return found


def write_parquet(path: Path, rows: Iterable[Prediction]) -> Path:
    """All predictions as one Parquet file at `path`, which is returned; `about` is JSON text there."""
    import pyarrow as pa
    from pyarrow.parquet import write_table

    image = pa.struct([("shard", pa.string()), ("row", pa.int64())])
    words = ("id", "study", "task", "dataset", "model", "output", "answer", "reference", "finish")
    schema = pa.schema(
        [
            *((name, pa.string()) for name in words),
            ("phantom", pa.bool_()),
            ("images", pa.list_(image)),
            ("split", pa.string()),
            ("question", pa.string()),
            ("scores", pa.map_(pa.string(), pa.float64())),
            ("about", pa.string()),
        ]
    )
    table = [
        {**row.row(), "scores": list(row.scores.items()), "about": json.dumps(row.about, sort_keys=True)}
        for row in rows
    ]
    write_table(pa.Table.from_pylist(table, schema=schema), path)
    return path


def read_parquet(path: Path) -> Iterator[Prediction]:
    """The predictions of a file of `write_parquet`. Raises UserError if it is not such a file."""
    for number, row in enumerate(parquet.rows(path), 1):
        try:
            made = _prediction({**row, "scores": _scores(row.get("scores")), "about": _about(row.get("about"))})
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(
                f"{path}: row {number} is not a prediction ({_why(error)}); run the aggregation of its run again"
            ) from None
        yield made


def _scores(cell: Any) -> dict[str, Any]:
    """The mapping of a cell, which Parquet gives as pairs. Raises _WrongColumn."""
    if not isinstance(cell, list) or not all(isinstance(pair, tuple) and isinstance(pair[0], str) for pair in cell):
        raise _WrongColumn("column `scores` has another type")
    return dict(cell)


def _about(cell: Any) -> Any:
    """The value of a cell that holds JSON. Raises _WrongColumn, and ValueError as `_parsed`."""
    if not isinstance(cell, str):
        raise _WrongColumn("column `about` has another type")
    return _parsed(cell)
