"""Samples shown in the report: image, boxes, reasoning, answer and reference of several models side by side."""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from diagcot.data.study import Box
from diagcot.evaluation.predictions import image_row
from diagcot.metrics.boxes import matched_iou
from diagcot.shards import Shard
from diagcot.tasks.predictions import Prediction
from diagcot.tasks.samples import order
from diagcot.text import boxes, layout
from diagcot.text.prose import readable

_SHOWN = str.maketrans({"✅": "✓", "❌": "✗"})  # few fonts of clusters and browsers have the first two
SIDE = 448  # pixels of the longer side of a image in the report


@dataclass(frozen=True)
class ShownAnswer:
    """One model's part of an example."""

    model: str
    reasoning: str
    answer: str
    boxes: tuple[Box, ...]
    score: float | None  # matched IoU where the task is grounding
    finish: str


@dataclass(frozen=True)
class Example:
    """One sample; `image` is a data URI of a JPEG, empty if the sample has no image."""

    id: str
    task: str
    phantom: bool
    image: str
    width: int
    height: int
    question: str
    reference: str
    truth: tuple[Box, ...]
    answers: tuple[ShownAnswer, ...]


def examples(
    predictions: Sequence[Prediction], models: Sequence[str], shards_root: Path, per_task: int
) -> Iterator[Example]:
    """The first `per_task` samples of each task in the order of their digests: chosen before anything was scored.

    In grounding, samples whose reference has boxes come first.
    """
    by_sample: dict[tuple[str, str], dict[str, Prediction]] = {}
    for row in predictions:
        by_sample.setdefault((row.task, row.id), {})[row.model] = row
    for task in sorted({task for task, _ in by_sample}, reverse=True):
        samples = {name: rows for (t, name), rows in by_sample.items() if t == task}
        empty = {
            name: task == "grounding" and "<box>" not in next(iter(r.values())).reference for name, r in samples.items()
        }
        for name in sorted(samples, key=lambda name: (empty[name], order(name)))[:per_task]:
            rows = samples[name]
            yield _example([rows[model] for model in models if model in rows], shards_root)


def _example(rows: Sequence[Prediction], shards_root: Path) -> Example:
    first = rows[0]
    grounding = first.task == "grounding"
    truth = tuple(boxes.parse(first.reference)) if grounding else ()
    image, width, height = _image(first, shards_root)
    return Example(
        id=first.id,
        task=first.task,
        phantom=first.phantom,
        image=image,
        width=width,
        height=height,
        question=first.question.translate(_SHOWN),
        reference=_shown(first.reference),
        truth=truth,
        answers=tuple(_answer(row, truth if grounding else None) for row in rows),
    )


def _answer(row: Prediction, truth: Sequence[Box] | None) -> ShownAnswer:
    claimed = boxes.claimed_in_any_style(row.answer)[0] if truth is not None else None
    return ShownAnswer(
        model=row.model,
        reasoning=_shown(_reasoning(row.output)),
        answer=_shown(row.answer),
        boxes=tuple(filter(boxes.is_well_formed, claimed or ())),
        score=None if truth is None else matched_iou(claimed, truth),
        finish=row.finish,
    )


def _shown(text: str) -> str:
    return readable(text.translate(_SHOWN))


def _reasoning(output: str) -> str:
    """The reasoning; for an interleaved trace every think with its answer, and the last think without it."""
    steps = layout.pairs(output)
    if len(steps) > 1:
        return "\n".join(f"{step.think} → {step.answer}" for step in steps[:-1]) + f"\n{steps[-1].think}"
    return layout.thinking(output)


def _image(row: Prediction, shards_root: Path) -> tuple[str, int, int]:
    if not row.images:
        return "", 1, 1
    shard = Shard(shards_root / row.images[0]["shard"])
    picture = shard.pixels(image_row(row, 0, shard))
    picture.thumbnail((SIDE, SIDE))
    data = io.BytesIO()
    picture.convert("L").save(data, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}", *picture.size
