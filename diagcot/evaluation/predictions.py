"""One model's answer to one sample, one JSON object a line: open to any tool, keyed by study and film."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diagcot.data.prompts import answer_of
from diagcot.data.samples import Sample
from diagcot.jobs.errors import UserError


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
    images: list[dict[str, Any]]  # shard and row of every film

    @staticmethod
    def of(sample: Sample, model: str, output: str, finish: str, phantom: bool) -> "Prediction":
        return Prediction(
            id=sample.id,
            study=sample.study,
            task=sample.task,
            dataset=sample.study.split("/")[0],
            model=model,
            output=output,
            answer=answer_of(output),
            reference=answer_of(sample.answer),
            finish=finish,
            phantom=phantom,
            images=[asdict(image) for image in sample.images],
        )

    def row(self) -> dict[str, Any]:
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


def order(sample_id: str) -> str:
    """A digest to sort by: picks the same samples for every model, without regard to their place or content."""
    return hashlib.sha256(sample_id.encode()).hexdigest()
