"""One model's answer to one sample, as a record that all kinds which answer samples write."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from diagcot.tasks.questions.wording import TASKS
from diagcot.tasks.samples import Sample
from diagcot.text.layout import first_answer, last_answer

ASKED = tuple(task for task in TASKS if task != "grounding")
"""Tasks whose samples are made by `diagcot.tasks.questions.questions`; `grounding` is a task of `diagcot.tasks.diagnosis`."""
ABOUT = ("label", "labels", "options", "option", "view", "report_rank", "image_rank", "references")
"""The entries of a sample's meta data that its prediction keeps. `references`: further texts, as right as its answer."""
BROUGHT = "brought"
"""The entry of `about` that says where the answer of a model that ran elsewhere comes from."""
NUMBERS = "own_metrics"
"""Entry of `about`: column of the table -> the number that a metric of the user's own gives the answer."""


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
    about: dict[str, Any] = field(
        default_factory=dict
    )  # options of a question, labels of a study, ranks of a retrieval: see ABOUT

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

    @property
    def references(self) -> tuple[str, ...]:
        """All texts that it is scored against, one unless the sample has several."""
        return (self.reference, *self.about.get("references", ()))

    def row(self) -> dict[str, Any]:
        """The prediction as a JSON object."""
        return asdict(self)
