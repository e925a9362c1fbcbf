"""The collections behind a shard stage: their readers, and the studies of one part of them."""

from collections.abc import Iterator, Sequence
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
from diagcot.data.reports import transforms
from diagcot.data.study import Image, Study
from diagcot.jobs import Context
from diagcot.shards.partition import partition
from diagcot.shards.settings import BuildSettings, Source, usable


class CollectionReader(Protocol):
    """What every reader of a collection offers."""

    dataset: str
    bad: list[tuple[str, str]]  # (row or report, what is wrong with it); complete for the tables after `patients`

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
    if source.dataset.reader == "mimic_cxr":
        return MimicCxr(
            root, usable(source.reports), source.labels, usable(source.tables), skip, usable(source.section_overrides)
        )
    if source.dataset.reader == "iu_xray":
        return IuXray(root, images, usable(source.annotation), skip)
    return TableCollection(source.dataset, root, images, skip)


def studies(source: Source, reader: CollectionReader, part: int, parts: int) -> Iterator[Study]:
    """The labelled studies of one part of a source that have images, in an order that depends only on the patients.

    The labels are those of the report before its transforms.
    """
    # Collections that have only labels or boxes have no reports; those of PadChest have no sections.
    sections = [source.dataset.has(section) for section in ("findings", "impression")]
    required = ("fi",) if source.only_fi and all(sections) else ()
    change = _changes(reader, (*required, *source.transforms))
    remaining = None
    if source.max_studies is not None:
        remaining = source.max_studies * (part + 1) // parts - source.max_studies * part // parts
    for patient in partition(reader.patients(), part, parts):
        for original in reader.studies(patient):
            if remaining == 0:
                return
            empty = not (original.findings or original.impression)
            if original.split not in source.splits or (any(sections) and empty):
                continue
            study = change(original)
            if study is None:
                continue
            if source.frontal_only:
                study = replace(study, images=tuple(image for image in study.images if image.frontal))
            if not source.phantom_images and all(reader.image_file(study, image) is None for image in study.images):
                continue
            yield replace(study, labels=reader.labels(original))
            remaining = None if remaining is None else remaining - 1


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
