"""What one sample's search is about: its films, its question, the gold answer, and the report that guides the teacher."""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diagcot.cot.settings import CollectSettings
from diagcot.data import seeded
from diagcot.jobs import UserError
from diagcot.shards import Shard
from diagcot.tasks import diagnosis as tasks
from diagcot.tasks.prompts import IMAGE
from diagcot.tasks.samples import ImageRef, Sample
from diagcot.text.layout import pairs

SPLIT = "train"
THINK = ("report", "classification", "grounding")
"""Tasks whose trace is one thinking and one answer; questions get interleaved pairs."""


@dataclass(frozen=True, slots=True)
class Case:
    """A sample of the training split with all that supervises its chain of thought."""

    id: str
    task: str  # report, classification, grounding, or the name of a task of questions
    study: str
    images: tuple[ImageRef, ...]
    question: str  # the user's text as evaluation asks it, `<image>` marks first
    reference: str  # the gold answer; of a question the last answer of its gold trace
    guide: str  # the reference report; the gold answer where a study has none
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def form(self) -> str:
        return "think" if self.task in THINK else "interleaved"


def chosen(shard: Shard, shards_root: Path, settings: CollectSettings, questions: Iterable[Sample] = ()) -> list[Case]:
    """The cases of a shard, the same for the same settings, whatever else the shard holds.

    questions: samples of a stage `questions` about the same shard. Raises UserError if they are of another shard or of
    another split than training's.
    """
    name = str(shard.path.relative_to(shards_root))
    about = _Guides(shard, name)
    asked = list(questions) if settings.questions else []
    for sample in asked:
        split = sample.meta.get("split", SPLIT)
        if split != SPLIT or {image.shard for image in sample.images} != {name}:
            raise UserError(
                f"question {sample.id} is of split {split} and shard {sample.images[0].shard}, and chains of thought are "
                f"collected for split {SPLIT} of {name}: the questions must come from a stage `questions` with "
                "`split: train` on the same shards"
            )
    kinds: dict[str, Iterable[Sample]] = {
        "closed": [one for one in asked if "options" in one.meta],
        "open": [one for one in asked if one.task == "open"],
    }
    found: list[Case] = []
    for task in settings.tasks:
        samples = kinds[task] if task in kinds else _of_films(task, shard, name, settings.views)
        cases = [about.case(sample, settings.server.images) for sample in samples]
        cases = [case for case in cases if len(case.guide) <= settings.max_reference_chars]
        cases.sort(key=lambda case: seeded.rank(case.id))
        found += cases[: settings.samples_per_shard]
    return found


def _of_films(task: str, shard: Shard, name: str, views: str) -> Iterator[Sample]:
    first: dict[str, int] = {}  # study -> the row of its first film
    for sample in tasks.SAMPLES[task](shard, name, SPLIT, "study" if views == "study" else "image"):
        row = sample.images[0].row
        if views == "frontal" and sample.meta.get("view", "") in ("LATERAL", "LL"):
            continue
        if views == "first" and first.setdefault(sample.study, row) != row:
            continue
        yield sample


class _Guides:
    """The reports of a shard, in the words that the report task has, by number of the study."""

    def __init__(self, shard: Shard, name: str) -> None:
        self.shard = shard
        told = tasks.report_samples(shard, name, SPLIT, "study")
        self.reports = {shard.study_of(one.images[0].row): one.answer for one in told}

    def case(self, sample: Sample, most: int) -> Case:
        """most: films that a request may have; of more, frontal ones come first."""
        images = sample.images
        if len(images) > most:
            kept = sorted(images, key=lambda image: not self.shard.image(image.row).frontal)[:most]
            images = tuple(image for image in images if image in kept)
        studies = dict.fromkeys(self.shard.study_of(image.row) for image in sample.images)
        reports = [self.reports[study] for study in studies if study in self.reports]
        reference = sample.answer if sample.task in THINK else pairs(sample.answer)[-1].answer
        guide = " Later: ".join(reports)
        return Case(
            id=sample.id,
            task=sample.task,
            study=sample.study,
            images=images,
            question=sys.intern(IMAGE * len(images) + sample.prompt.replace(IMAGE, "")),
            reference=reference,
            guide=reference if guide in ("", reference) else guide,  # one text, not two, for each case of a large shard
            meta=sample.meta,
        )
