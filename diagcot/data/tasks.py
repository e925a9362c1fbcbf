"""The samples of a shard for each task: one sample for one film, worded by `diagcot.data.prompts` (method.md 2)."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from diagcot.data import prompts
from diagcot.data.samples import ImageRef, Sample
from diagcot.data.study import Image, Study

if TYPE_CHECKING:
    from diagcot.shards.reader import Shard

GROUNDED = ("Cardiomegaly", "Lung Opacity", "Pleural Effusion", "Pneumothorax", "Support Devices")
"""Labels asked for in grounding where nothing else is said."""


def report_samples(shard: "Shard", ref_name: str, split: str) -> Iterator[Sample]:
    """Every film with its study's whole report. `ref_name` is the shard's path under the shards root."""
    for study, image, row in _films(shard, split):
        answer = prompts.report_answer(study.findings, study.impression)
        if answer:
            yield _sample("report", study, image, ref_name, row, prompts.REPORT, answer, labels=study.labels)


def classification_samples(shard: "Shard", ref_name: str, split: str) -> Iterator[Sample]:
    """The labels that are present, in CheXpert's order; studies where all that is known is doubt are left out."""
    for study, image, row in _films(shard, split):
        present = [name for name, value in study.labels.items() if value == 1]
        if present:
            answer = prompts.classification_answer(present)
            yield _sample(
                "classification", study, image, ref_name, row, prompts.CLASSIFICATION, answer, labels=study.labels
            )


def grounding_samples(
    shard: "Shard", ref_name: str, split: str, labels: Sequence[str] = GROUNDED, negatives: float = 1.0
) -> Iterator[Sample]:
    """Boxes: a sample for each frontal film and each of `labels`, of films whose boxes are known.

    Films that do not show the label are asked for too, at most `negatives` for each film of the shard that does: those
    with the lowest hashes, so that the choice depends on nothing else.
    """
    films = [(s, i, row) for s, i, row in _films(shard, split) if i.frontal and (i.phantom or i.boxes)]
    chosen: set[tuple[str, int]] = set()
    for label in labels:
        shown = {row for _, image, row in films if any(box.label == label for box in image.boxes)}
        others = sorted((_hash(image.id, label), row) for _, image, row in films if row not in shown)
        chosen |= {(label, row) for row in shown} | {(label, row) for _, row in others[: round(len(shown) * negatives)]}
    for study, image, row in films:
        for label in labels:
            if (label, row) in chosen:
                name = label.lower()
                boxes = [box for box in image.boxes if box.label == label]
                meta = {"label": label, "boxes": [[b.x1, b.y1, b.x2, b.y2] for b in boxes]}
                prompt, answer = prompts.GROUNDING.format(label=name), prompts.grounding_answer(name, boxes)
                yield _sample("grounding", study, image, ref_name, row, prompt, answer, label, **meta)


def _films(shard: "Shard", split: str) -> Iterator[tuple[Study, Image, int]]:
    """Every film of the studies of a split, with its row."""
    for i in range(len(shard)):
        if shard.split(i) == split:
            study = shard.study(i)
            for image, row in zip(study.images, shard.rows(i), strict=True):
                yield study, image, row


def _sample(
    task: str,
    study: Study,
    image: Image,
    ref_name: str,
    row: int,
    prompt: str,
    answer: str,
    what: str = "",
    **meta: Any,
) -> Sample:
    return Sample(
        id=f"{study.key}/{image.id}" + (f":{what}" if what else ""),
        task=task,
        study=study.key,
        images=(ImageRef(ref_name, row),),
        messages=(("user", prompt), ("assistant", answer)),
        meta={"view": image.view, "phantom": image.phantom, **meta},
    )


def _hash(image: str, label: str) -> bytes:
    return hashlib.blake2b(f"{image}:{label}".encode(), digest_size=8).digest()
