"""Files of predictions: one JSON object a line, and one Parquet file of a whole run."""

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from diagcot.jobs import Context, Unit, UserError
from diagcot.jobs.state import reading
from diagcot.tasks.predictions import Prediction


def read(paths: Iterable[Path]) -> Iterator[Prediction]:
    """Predictions of JSONL files. Raises UserError that names file and line for a broken line."""
    for path in paths:
        for number, line in enumerate(reading.lines(path), 1):
            try:
                yield Prediction(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise UserError(
                    f"{path}:{number} is not a prediction ({type(error).__name__}); run its stage again"
                ) from None


def tested(unit: Unit, ctx: Context) -> dict[str, Prediction]:
    """Sample id -> the prediction of the test split, of the evaluation's unit with the same key."""
    path = next(path for path in ctx.files("predictions", f"{unit.key}.jsonl"))
    return {row.id: row for row in read([path]) if row.split == "test"}


def write_parquet(path: Path, rows: Iterable[Prediction]) -> Path:
    """All predictions as one Parquet file at `path`, which is returned; `about` is JSON text there."""
    import pyarrow as pa
    from pyarrow import parquet

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
    parquet.write_table(pa.Table.from_pylist(table, schema=schema), path)
    return path


def read_parquet(path: Path) -> Iterator[Prediction]:
    """The predictions of a file of `write_parquet`. Raises UserError if it is not such a file."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        for row in parquet.read_table(io.BytesIO(reading.read_bytes(path))).to_pylist():
            yield Prediction(**{**row, "scores": dict(row["scores"]), "about": json.loads(row["about"])})
    except (pa.ArrowException, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} holds no predictions ({type(error).__name__}); run the aggregation of its run again"
        ) from None
