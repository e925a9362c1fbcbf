"""The best constant answer: what a model would score that does not look at images and says the same of all of them.

It is chosen on the training split, among its most frequent answers, by one score of the task.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from diagcot.evaluation.predict import samples_of
from diagcot.evaluation.scores.columns import CONSTANT, TEXTS, measured
from diagcot.evaluation.settings import EvaluateSettings
from diagcot.metrics import tokens
from diagcot.metrics.intervals import Bootstrap, Metric
from diagcot.metrics.text import rouge_l
from diagcot.shards import Shard
from diagcot.tasks.predictions import BROUGHT, Prediction

NAME = CONSTANT
CANDIDATES = 30
"""Most frequent answers of the training split that are tried."""
READ, SCORED = 1000, 200
"""Training samples that are read of each task and collection, and those of them on which candidates are scored."""
CHOSEN_BY = {
    "grounding": "iou",
    "grounding_pixels": "iou_pixels",
    "classification": "classification_f1",
    "open": "open_f1",
}
"""Task -> the score that chooses; texts are chosen by ROUGE-L, closed questions by their accuracy."""
SettingsOf = Callable[[str], EvaluateSettings]


def answers(rows: Sequence[Prediction], shards_root: Path, settings_of: SettingsOf, seed: int) -> list[Prediction]:
    """A prediction of NAME for each test sample of `rows`, where the training split of its shards has the task.

    settings_of: task -> the settings with which it was evaluated.
    """
    samples: dict[tuple[str, str], dict[str, Prediction]] = {}
    for row in rows:
        if row.split == "test" and row.task != "retrieval":
            samples.setdefault((row.dataset, row.task), {}).setdefault(row.id, row)
    found = []
    for (dataset, task), own in samples.items():
        read = _training(dataset, task, list(own.values()), shards_root, settings_of(task), seed)
        if training := list(islice(read, READ)):
            answer = best(training)
            for row in own.values():
                about = {name: value for name, value in row.about.items() if name != BROUGHT}
                one = replace(row, model=NAME, output=answer, answer=answer, finish="stop", scores={}, about=about)
                found.append(one)
    return found


def _training(
    dataset: str, task: str, rows: Sequence[Prediction], root: Path, settings: EvaluateSettings, seed: int
) -> Iterator[Prediction]:
    few = settings.model_copy(update={"samples_per_shard": READ, "format_instruction": False})
    for name in sorted({image["shard"] for row in rows for image in row.images}):
        for sample in samples_of(Shard(root / name), root, task, few, "train", seed):
            if sample.dataset == dataset:
                yield Prediction.of(sample, NAME, sample.answer, "stop", "train")


def best(training: Sequence[Prediction]) -> str:
    """The answer that scores most on training samples of one task; of equal ones the more frequent."""
    candidates = [answer for answer, _ in Counter(row.reference for row in training).most_common(CANDIDATES)]
    return max(candidates, key=lambda answer: value(answer, training[:SCORED]))


def value(answer: str, training: Sequence[Prediction]) -> float:
    """The score of one answer to all these samples."""
    task = training[0].task
    if task in TEXTS:
        references = [tokens.words(row.reference) for row in training]
        return float(rouge_l([tokens.words(answer)] * len(references), references).mean())
    scores = measured([replace(row, output=answer, answer=answer) for row in training], [], {})
    metric = scores[CHOSEN_BY.get(task, f"{task}_accuracy")]
    return Bootstrap([row.study for row in training], 1).value(metric) if isinstance(metric, Metric) else 0.0
