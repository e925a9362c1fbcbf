"""Samples of chain-of-thought collection: images, question, gold answer, and the report that guides the teacher."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diagcot.cot.settings import CollectSettings
from diagcot.data import seeded
from diagcot.jobs import UserError
from diagcot.shards import Shard
from diagcot.tasks import diagnosis as tasks
from diagcot.tasks.prompt_set import DEFAULT, PromptSet
from diagcot.tasks.prompts import IMAGE, report_answer, report_text
from diagcot.tasks.samples import ImageRef, Sample
from diagcot.text.layout import pairs

SPLIT = "train"
_SECTIONS = ("findings", "impression")
THINK = ("report", "classification", "grounding")
"""Tasks whose trace is one reasoning and one answer; questions get interleaved pairs."""


@dataclass(frozen=True, slots=True)
class CoTSample:
    """A sample of the training split with everything that supervises its chain of thought."""

    id: str
    task: str  # report, classification, grounding, or the name of a question task
    study: str
    images: tuple[ImageRef, ...]
    question: str  # the user's text as in evaluation, `<image>` placeholders first
    reference: str  # the gold answer; for a question, the last answer of its gold trace
    reference_report: str  # the gold answer where a study has no report
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def trace_format(self) -> str:
        """`think`: one reasoning and one answer; `interleaved`: pairs of them."""
        return "think" if self.task in THINK else "interleaved"

    @property
    def sections(self) -> tuple[str, ...]:
        """The sections that a report has to have: those of the reference, or findings alone if it has no headings."""
        return tuple(name for name in _SECTIONS if f"{name} : " in self.reference) or _SECTIONS[:1]

    def layout(self, sections: Mapping[str, str]) -> str:
        """A report in the layout of the reference: with headings if the reference has them."""
        if any(f"{name} : " in self.reference for name in _SECTIONS):
            return report_answer(sections.get("findings", ""), sections.get("impression", ""))
        return " ".join(sections["findings"].split())


def select_samples(
    shard: Shard,
    shards_root: Path,
    settings: CollectSettings,
    questions: Iterable[Sample] = (),
    texts: PromptSet = DEFAULT,
) -> list[CoTSample]:
    """The samples of a shard to collect traces for; the same settings select the same samples.

    questions: samples of a stage `questions` about the same shard. Raises UserError if they belong to another shard or
    to a split other than train.
    """
    name = str(shard.path.relative_to(shards_root))
    reports = _Reports(shard, name)
    question_samples = list(questions) if settings.questions else []
    for sample in question_samples:
        split = sample.meta.get("split", SPLIT)
        if split != SPLIT or {image.shard for image in sample.images} != {name}:
            raise UserError(
                f"question {sample.id} belongs to split {split} of {sample.images[0].shard}, but chains of thought are "
                f"collected for split {SPLIT} of {name}: the questions must come from a stage `questions` with "
                "`split: train` on the same shards"
            )
    kinds: dict[str, Iterable[Sample]] = {
        "closed": [sample for sample in question_samples if "options" in sample.meta],
        "open": [sample for sample in question_samples if sample.task == "open"],
    }
    selected: list[CoTSample] = []
    for task in settings.tasks:
        samples = kinds[task] if task in kinds else _image_samples(task, shard, name, settings.views, texts)
        candidates = [reports.cot_sample(sample, settings.server.images) for sample in samples]
        candidates = [row for row in candidates if len(row.reference_report) <= settings.max_reference_chars]
        candidates.sort(key=lambda row: seeded.rank(row.id))
        selected += candidates[: settings.samples_per_shard]
    return selected


def _image_samples(task: str, shard: Shard, name: str, views: str, texts: PromptSet) -> Iterator[Sample]:
    first: dict[str, int] = {}  # study -> the row of its first image
    for sample in tasks.SAMPLES[task](shard, name, SPLIT, "study" if views == "study" else "image", texts):
        row = sample.images[-1].row  # those of an earlier study, if the prompts show them, come first
        if views == "frontal" and sample.meta.get("view", "") in ("LATERAL", "LL"):
            continue
        if views == "first" and first.setdefault(sample.study, row) != row:
            continue
        yield sample


class _Reports:
    """The reference reports of a shard by number of the study, as people write them."""

    def __init__(self, shard: Shard, name: str) -> None:
        self.shard = shard
        numbers = [shard.study_of(sample.images[0].row) for sample in tasks.report_samples(shard, name, SPLIT, "study")]
        studies = ((number, shard.study(number)) for number in numbers)
        self.reports = {number: report_text(study.findings, study.impression) for number, study in studies}

    def cot_sample(self, sample: Sample, max_images: int) -> CoTSample:
        """The sample with its reference. max_images: of a request; with more, frontal images are kept first."""
        images = sample.images
        if len(images) > max_images:
            kept = sorted(images, key=lambda image: not self.shard.image(image.row).frontal)[:max_images]
            images = tuple(image for image in images if image in kept)
        about = sample.images[-1:] if sample.task == "report" else sample.images
        studies = dict.fromkeys(self.shard.study_of(image.row) for image in about)
        reports = [self.reports[study] for study in studies if study in self.reports]
        reference = sample.answer if sample.task in THINK else pairs(sample.answer)[-1].answer
        report = " Later: ".join(reports)
        return CoTSample(
            id=sample.id,
            task=sample.task,
            study=sample.study,
            images=images,
            question=sys.intern(IMAGE * len(images) + sample.prompt.replace(IMAGE, "")),
            reference=reference,
            reference_report=reference
            if report in ("", reference)
            else report,  # one string, not two, in a large shard
            meta=sample.meta,
        )
