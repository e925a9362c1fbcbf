"""One model's answer to one sample, one JSON object a line, keyed by study and image."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from diagcot.evaluation.settings import ASKED
from diagcot.jobs import Context, Unit, UserError
from diagcot.tasks.samples import Sample
from diagcot.text.layout import first_answer, last_answer

ABOUT = ("label", "labels", "options", "option", "view")
"""The entries of a sample's meta data that its prediction keeps."""


@dataclass(frozen=True)
class Prediction:
    """`output` is all the model wrote, `answer` what is scored, `reference` what it is scored against."""

    id: str
    study: str
    task: str
    dataset: str
    model: str
    output: str
    answer: str
    reference: str
    finish: str  # stop, length, or error where the server gave no text
    phantom: bool
    images: list[dict[str, Any]]  # shard and row of every image
    split: str = "test"  # or validate, where thresholds are chosen
    question: str = ""  # the user's text without <image>
    scores: dict[str, float] = field(default_factory=dict)  # label -> probability, of classification
    about: dict[str, Any] = field(default_factory=dict)  # options of a question, labels of a study: see ABOUT

    @staticmethod
    def of(
        sample: Sample, model: str, output: str, finish: str, split: str, scores: Mapping[str, float] | None = None
    ) -> "Prediction":
        """The prediction of a model's output; questions are scored by the last answer block, other tasks by the first."""
        read_answer = last_answer if sample.task in ASKED else first_answer
        return Prediction(
            id=sample.id,
            study=sample.study,
            task=sample.task,
            dataset=sample.dataset,
            model=model,
            output=output,
            answer=read_answer(output),
            reference=read_answer(sample.answer),
            finish=finish,
            phantom=bool(sample.meta.get("phantom")),
            images=[asdict(image) for image in sample.images],
            split=split,
            question=sample.prompt.replace("<image>", "").strip(),
            scores=dict(scores or {}),
            about={name: sample.meta[name] for name in ABOUT if name in sample.meta},
        )

    def row(self) -> dict[str, Any]:
        """The prediction as a JSON object."""
        return asdict(self)


def read(paths: Iterable[Path]) -> Iterator[Prediction]:
    """Predictions of JSONL files. Raises UserError that names file and line for a broken line."""
    for path in paths:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
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
        for row in parquet.read_table(path).to_pylist():
            yield Prediction(**{**row, "scores": dict(row["scores"]), "about": json.loads(row["about"])})
    except (pa.ArrowException, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} holds no predictions ({type(error).__name__}); run the aggregation of its run again"
        ) from None


def order(sample_id: str) -> str:
    """A digest to sort by: picks the same samples for every model, without regard to their place or content."""
    return hashlib.sha256(sample_id.encode()).hexdigest()
