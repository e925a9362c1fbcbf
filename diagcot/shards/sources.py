"""The collections behind a shard stage: their readers, and the studies of one part of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from diagcot.data.errors import DataError
from diagcot.data.phantom.drawing import draw
from diagcot.data.phantom.findings import Findings
from diagcot.data.readers.collection import TableCollection
from diagcot.data.readers.iu_xray import IuXray
from diagcot.data.readers.mimic_cxr import MimicCxr
from diagcot.data.readers.origins import Origin
from diagcot.data.reports import transforms
from diagcot.data.study import Image, Study
from diagcot.jobs import Context
from diagcot.shards.audit.accounting import Account
from diagcot.shards.partition import partition
from diagcot.shards.settings import BuildSettings, Source, usable


class CollectionReader(Protocol):
    """What every reader of a collection offers."""

    dataset: str
    bad: list[tuple[str, str]]  # (row or report, why it is left out); complete for the tables after `patients`
    bad_boxes: list[tuple[str, str]]  # (image, why a box is left out)
    remarks: list[tuple[str, str]]  # (file, row or report, what is worth knowing about it); nothing is left out

    @property
    def rows(self) -> int:
        """Rows and reports that were read, those that are left out among them; as `bad`, complete after `patients`."""
        ...

    def patients(self) -> dict[str, int]:
        """Patient -> number of images."""
        ...

    def studies(self, patient: str) -> Iterator[Study]:
        """The studies of a patient."""
        ...

    def labels(self, study: Study) -> dict[str, int]:
        """CheXpert labels of a study."""
        ...

    def image_file(self, study: Study, image: Image) -> Path | None:
        """The file of an image, which may turn out to be missing; None where the collection has no such file."""
        ...

    @property
    def taken_from(self) -> frozenset[str]:
        """Other collections that the tables name for images of this one."""
        ...

    def origins(self) -> Iterator[Origin]:
        """What is known of each image before it is read."""
        ...

    def __hash__(self) -> int: ...


def open_reader(source: Source, settings: BuildSettings, ctx: Context) -> CollectionReader:
    """The reader of a source. Raises DataError when its data is not complete."""
    if source.input is not None:
        roots = ctx.inputs.get(source.input)
        if not roots:
            raise DataError(
                f"stage {ctx.stage}: no input has the role {source.input!r}; name a stage of kind `phantoms` in its inputs"
            )
        root: Path | None = Path(roots[0]) / "tree"
    else:
        root = usable(source.path)
    if root is None:
        raise DataError(f"stage {ctx.stage}: the variable in {source.path!r} is not set")
    skip, images = settings.on_bad_report, usable(source.images)
    entry = source.dataset
    if source.held_out:
        entry = entry.model_copy(update={"held_out": source.held_out})
    if entry.reader == "mimic_cxr":
        return MimicCxr(
            root, usable(source.reports), source.labels, usable(source.tables), skip, usable(source.section_overrides)
        )
    if entry.reader == "iu_xray":
        return IuXray(root, images, usable(source.annotation), skip)
    return TableCollection(entry, root, images, skip)


def studies(
    source: Source,
    reader: CollectionReader,
    part: int,
    parts: int,
    account: Account | None = None,
    splits: Mapping[str, str] | None = None,
) -> Iterator[Study]:
    """The labelled studies of one part of a source that have images, in an order that depends only on the patients.

    The labels are those of the report before its transforms. account: counts what was read and what is left out here.
    splits: patient -> split, of the patients whose split other sources decide (`diagcot.data.readers.origins.decide`).
    """
    account = account or Account()
    change = _Selection(source, reader)
    remaining = None
    if source.max_studies is not None:
        remaining = source.max_studies * (part + 1) // parts - source.max_studies * part // parts
    patients = partition(reader.patients(), part, parts)
    for place, patient in enumerate(patients):
        if remaining == 0:
            account.leave_out("patients", BEYOND, reader.dataset, len(patients) - place, asked=True)
            return
        for found in reader.studies(patient):
            original = found if source.view is None else _viewed(found, source.view)
            if splits and (split := splits.get(patient)) and split != original.split:
                account.move(original.split, split, len(original.images))
                original = replace(original, split=split)
            account.read_study(original)
            if remaining == 0:
                account.leave_out_study(original, BEYOND, asked=True)
                continue
            study = change.selected(original, account)
            if study is not None:
                yield replace(study, labels=reader.labels(original))
                remaining = None if remaining is None else remaining - 1


def _viewed(study: Study, view: str) -> Study:
    """The study with the view that the recipe states for images of unknown view."""
    return replace(study, images=tuple(image if image.view else replace(image, view=view) for image in study.images))


BEYOND = "beyond max_studies"


class _Selection:
    """What a source uses of the studies of its reader."""

    def __init__(self, source: Source, reader: CollectionReader) -> None:
        self._source, self._reader = source, reader
        self._has_reports = any(source.dataset.has(section) for section in ("findings", "impression"))
        self._required = source.requires_both_sections
        self._change = _changes(reader, (*(("fi",) if self._required else ()), *source.transforms))

    def selected(self, original: Study, account: Account) -> Study | None:
        """The study as the source uses it; None, and counted with the reason, if it is not used."""
        if why := self._left_out(original):
            account.leave_out_study(self._without_drawn(original, account), why, asked=why in _ASKED)
            return None
        study = self._change(original)
        if study is None:
            account.leave_out_study(original, "emptied by the recipe's `transforms`", asked=True)
            return None
        there = tuple(image for image in study.images if self._reader.image_file(study, image) is not None)
        if self._source.phantom_images and not any(map(self._wanted, there)):
            return self._to_be_drawn(study, there, account)
        if not there:
            account.leave_out_study(study, NO_FILE if study.images else NO_IMAGE)
            return None
        if self._source.phantom_images:
            for image in study.images:
                if image not in there:
                    account.leave_out_image(study, image, NOT_DRAWN, asked=True)
            study = replace(study, images=there)
        return self._frontal(study, account) if self._source.frontal_only else study

    def _without_drawn(self, study: Study, account: Account) -> Study:
        """The study without the images for which a phantom would be drawn: what is not there cannot be lost with the study."""
        if not self._source.phantom_images:
            return study
        there = tuple(image for image in study.images if self._reader.image_file(study, image) is not None)
        for image in study.images:
            if image not in there:
                account.leave_out_image(study, image, DRAWN_WITH_STUDY, asked=True)
        return replace(study, images=there)

    def _to_be_drawn(self, study: Study, there: Sequence[Image], account: Account) -> Study:
        """The study without images: a phantom is drawn for it."""
        for image in study.images:
            why = DRAWN if image not in there else LATERAL if image.view else NO_VIEW
            account.leave_out_image(study, image, why, asked=why != NO_VIEW)
        return replace(study, images=())

    def _wanted(self, image: Image) -> bool:
        """Whether an image is of a view that the source uses."""
        return image.frontal or not self._source.frontal_only

    def _left_out(self, study: Study) -> str:
        if not study.split:
            return NO_SPLIT
        if study.split not in self._source.splits:
            return OTHER_SPLIT
        if self._has_reports and not (study.findings.strip() or study.impression.strip()):
            return NO_REPORT
        return NOT_BOTH if self._required and not (study.findings.strip() and study.impression.strip()) else ""

    def _frontal(self, study: Study, account: Account) -> Study | None:
        """The study without lateral images, and without those whose view is not known, which is a loss; None if no other is
        left.
        """
        for image in study.images:
            if not image.frontal:
                known = bool(image.view)
                account.leave_out_image(study, image, LATERAL if known else NO_VIEW, asked=known)
        images = tuple(image for image in study.images if image.frontal)
        if not images:
            account.leave_out_emptied(study, LATERAL, asked=all(image.view for image in study.images))
            return None
        return replace(study, images=images)


OTHER_SPLIT = "of a split that `splits` does not name"
NOT_BOTH = "without findings or impression (`only_fi`)"
LATERAL = "not frontal (`frontal_only`)"
NO_REPORT = "the report is not there, or has no text"
NO_SPLIT = "its split is not known: its table is missing or does not name it (`held_out` chooses splits by hash)"
NO_VIEW = "its view is not known, and the recipe asks for frontal images (`view` states it)"
NO_FILE = "its file is not in the folder of images"
NO_IMAGE = "the study has no image"
DRAWN = "a phantom is drawn in its place (`phantom_images`)"
DRAWN_WITH_STUDY = "a phantom would be drawn in its place, but its study is left out (`phantom_images`)"
NOT_DRAWN = "its file is not in the folder of images, and the study has another one (`phantom_images`)"
_ASKED = (OTHER_SPLIT, NOT_BOTH)


@lru_cache(maxsize=8)
def _changes(reader: CollectionReader, names: tuple[str, ...]) -> transforms.Transform:
    """The chain of transforms, built once for all parts of an array task; it may read all training studies first."""

    def training() -> Iterator[Study]:
        for patient in reader.patients():
            yield from (study for study in reader.studies(patient) if study.split == "train")

    return transforms.chain(names, training)


def phantom_images(study: Study, views: Sequence[str], size: int, seed: int) -> tuple[Study, list[bytes]]:
    """The study with a phantom of each view in place of its images, and the JPEGs of these phantoms."""
    findings = Findings.from_tags(study.tags)
    drawn = [draw(study.key, findings, view, size, seed) for view in views]
    images = tuple(Image(f"{study.id}-phantom-{d.view}", d.view, size, size, d.boxes, phantom=True) for d in drawn)
    return replace(study, images=images), [phantom.jpeg() for phantom in drawn]
