"""The samples of a shard for each task, worded by `diagcot.tasks.prompts` (method.md 2).

By policy `image` one film is a sample, with its study's whole report, as DiagCoT was released; by `study` all films of
a study are one sample, so that reports are not repeated and test items do not hang together (method.md 12.22).
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from diagcot.data.reports import transforms
from diagcot.data.study import Image, Study
from diagcot.tasks import prompts
from diagcot.tasks.samples import ImageRef, Sample

if TYPE_CHECKING:
    from diagcot.shards.reader import Shard

Views = Literal["image", "study"]

GROUNDED = ("Cardiomegaly", "Lung Opacity", "Pleural Effusion", "Pneumothorax", "Support Devices")
"""Labels asked for in grounding where nothing else is said."""


@dataclass(frozen=True)
class Shown:
    """A study and those of its films that a sample shows, with their rows in the shard."""

    study: Study
    films: tuple[tuple[Image, int], ...]
    whole: bool = False  # all films of the study, by policy

    def sample(self, task: str, ref_name: str, prompt: str, answer: str, what: str = "", **meta: Any) -> Sample:
        """A sample of these films, whose id names the film unless it shows the study as a whole."""
        image, study = self.films[-1][0], self.study.key
        name = study if self.whole else f"{study}/{image.id}"
        return Sample(
            id=name + (f":{what}" if what else ""),
            task=task,
            study=study,
            images=tuple(ImageRef(ref_name, row) for _, row in self.films),
            messages=(("user", prompts.for_films(prompt, len(self.films))), ("assistant", answer)),
            meta={
                "patient": f"{self.study.dataset}/{self.study.patient}",
                "view": image.view,
                "phantom": any(film.phantom for film, _ in self.films),
                **meta,
            },
        )


def report_samples(shard: "Shard", ref_name: str, split: str, views: Views = "image") -> Iterator[Sample]:
    """Films with their study's whole report. `ref_name` is the shard's path under the shards root."""
    alone = _findings_alone(shard)
    for shown in studies_shown(shard, split, views):
        study = shown.study
        answer = study.findings if study.dataset in alone else prompts.report_answer(study.findings, study.impression)
        if answer:
            yield shown.sample("report", ref_name, prompts.REPORT, answer, labels=study.labels)


def classification_samples(shard: "Shard", ref_name: str, split: str, views: Views = "image") -> Iterator[Sample]:
    """The labels that are present, in CheXpert's order; studies where all that is known is doubt are left out."""
    for shown in studies_shown(shard, split, views):
        labels = shown.study.labels
        present = [name for name, value in labels.items() if value == 1]
        if present:
            answer = prompts.classification_answer(present)
            yield shown.sample(
                "classification", ref_name, prompts.CLASSIFICATION, answer, "classification", labels=labels
            )


def grounding_samples(
    shard: "Shard", ref_name: str, split: str, labels: Sequence[str] = GROUNDED, negatives: float = 1.0
) -> Iterator[Sample]:
    """Boxes: a sample for each frontal film and each of `labels`, of films whose boxes are known.

    Films that do not show the label are asked for too, at most `negatives` for each film of the shard that does: those
    with the lowest hashes, so that the choice depends on nothing else. A film without any box is one of them where it
    is a phantom, or where the label is known to be absent.
    """
    films = [
        (shown, image, row) for shown in studies_shown(shard, split) for image, row in shown.films if image.frontal
    ]
    chosen: set[tuple[str, int]] = set()
    for label in labels:
        having = {row for _, image, row in films if any(box.label == label for box in image.boxes)}
        others = sorted(
            (_hash(image.id, label), row)
            for shown, image, row in films
            if row not in having and (image.phantom or image.boxes or shown.study.labels.get(label) == 0)
        )
        chosen |= {(label, row) for row in having}
        chosen |= {(label, row) for _, row in others[: round(len(having) * negatives)]}
    for shown, image, row in films:
        for label in labels:
            if (label, row) in chosen:
                name = label.lower()
                boxes = [box for box in image.boxes if box.label == label]
                meta = {"label": label, "boxes": [[b.x1, b.y1, b.x2, b.y2] for b in boxes]}
                prompt, answer = prompts.GROUNDING.format(label=name), prompts.grounding_answer(name, boxes)
                yield shown.sample("grounding", ref_name, prompt, answer, label, **meta)


SAMPLES: dict[str, Callable[["Shard", str, str, Views], Iterator[Sample]]] = {
    "report": report_samples,
    "classification": classification_samples,
    "grounding": lambda shard, ref_name, split, views: grounding_samples(shard, ref_name, split),
}
"""Task -> its samples. Boxes belong to one film, whatever the policy of views."""


def studies_shown(shard: "Shard", split: str, views: Views = "image") -> Iterator[Shown]:
    """The studies of a split, once for each film or once with all of them, in the shard's order."""
    for i in range(len(shard)):
        if shard.split(i) == split:
            study = shard.study(i)
            films = tuple(zip(study.images, shard.rows(i), strict=True))
            if views == "study":
                yield Shown(study, films, whole=True)
            else:
                yield from (Shown(study, (film,)) for film in films)


def _findings_alone(shard: "Shard") -> frozenset[str]:
    """Data sets of the shard whose transforms leave the findings alone, without headings."""
    sources = json.loads(shard.attrs.get("sources", "[]"))
    return frozenset(s["dataset"] for s in sources if transforms.findings_alone(s.get("transforms", [])))


def _hash(image: str, label: str) -> bytes:
    return hashlib.blake2b(f"{image}:{label}".encode(), digest_size=8).digest()
