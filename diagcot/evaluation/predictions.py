"""Files of predictions: one JSON object a line, and one Parquet file of a whole run."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from diagcot.data import parquet
from diagcot.jobs import Context, Unit, UserError
from diagcot.jobs.state import identity, reading
from diagcot.jobs.state.identity import Ids, doubled
from diagcot.shards import Shard
from diagcot.tasks.predictions import Prediction

IMAGES = "image_digests"
"""Entry of `about`: a digest of each image of the sample."""
REMEDY = (
    "the inputs of the evaluation hold one study twice. Give it each collection from one `shards` stage alone, and collections"
    " whose ids are alike names of their own"
)


def read(paths: Iterable[Path]) -> Iterator[Prediction]:
    """Predictions of JSONL files. Raises UserError that names file and line for a broken line."""
    for path in paths:
        for number, line in enumerate(reading.lines(path), 1):
            try:
                yield Prediction(**reading.parse_json(line))
            except (ValueError, TypeError, RecursionError) as error:
                raise UserError(
                    f"{path}:{number} is not a prediction ({type(error).__name__}); run its stage again"
                ) from None


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


def joined(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Rows about predictions (scores, verdicts), to be joined to predictions by task, model and id.

    Several stages may write about one unit of the evaluation, whose name their files then share. Raises UserError, with
    both files, for an id that is in the files of two units or twice in one file.
    """
    units: dict[tuple[str, str, str], Path] = {}
    for path in paths:
        own = Ids("what is said of", REMEDY)
        for row in identity.rows(path, "task", "model", "id"):
            key, name = (row["task"], row["model"], row["id"]), f"{row['id']} (task {row['task']}) by {row['model']}"
            own.add(key, path, name=name)
            if units.setdefault(key, path).name != path.name:
                raise doubled("what is said of", name, units[key], path, REMEDY)
            yield row


def with_images(rows: Iterable[Prediction], shards_root: Path) -> Iterator[Prediction]:
    """The predictions with digests of their images' files in `about`, by which another run's answers are paired with them."""
    known: dict[str, list[str]] = {}
    for row in rows:
        for name in {image["shard"] for image in row.images} - known.keys():
            known[name] = [digest.tobytes().hex()[:16] for digest in Shard(shards_root / name).numbers("images/sha256")]
        shown = [known[image["shard"]][image["row"]] for image in row.images]
        yield replace(row, about=row.about | {IMAGES: shown}) if shown else row


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
    try:
        for row in parquet.rows(path):
            yield Prediction(**{**row, "scores": dict(row["scores"]), "about": reading.parse_json(row["about"])})
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(
            f"{path} holds no predictions ({type(error).__name__}); run the aggregation of its run again"
        ) from None
