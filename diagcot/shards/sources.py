"""The collections behind a shard stage: their readers, and the studies of one part of them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from diagcot.data.errors import DataError
from diagcot.data.phantom.drawing import draw
from diagcot.data.phantom.findings import Findings
from diagcot.data.readers.collection import Collection
from diagcot.data.readers.iu_xray import IuXray
from diagcot.data.readers.mimic_cxr import MimicCxr
from diagcot.data.reports import transforms
from diagcot.data.study import Image, Study
from diagcot.jobs import Context
from diagcot.shards.partition import partition
from diagcot.shards.settings import BuildSettings, Source, known


class Reader(Protocol):
    """What every reader of a collection offers."""

    dataset: str
    bad: list[tuple[str, str]]  # (row or report, what is wrong with it), after `patients` of all tables

    def patients(self) -> dict[str, int]: ...
    def studies(self, patient: str) -> Iterator[Study]: ...
    def labels(self, study: Study) -> dict[str, int]: ...
    def film(self, study: Study, image: Image) -> Path | None: ...
    def __hash__(self) -> int: ...


def open_reader(source: Source, settings: BuildSettings, ctx: Context) -> Reader:
    """The reader of a source. Raises DataError when its data is not whole."""
    if source.input is not None:
        roots = ctx.inputs.get(source.input)
        if not roots:
            raise DataError(
                f"stage {ctx.stage}: no input is called {source.input!r}; name a stage of phantoms in its inputs"
            )
        root: Path | None = Path(roots[0]) / "tree"
    else:
        root = known(source.path)
    if root is None:
        raise DataError(f"stage {ctx.stage}: the variable in {source.path!r} is not set")
    skip, images = settings.on_bad_report, known(source.images)
    if source.dataset.reader == "mimic_cxr":
        return MimicCxr(
            root, known(source.reports), source.labels, known(source.tables), skip, known(source.section_overrides)
        )
    if source.dataset.reader == "iu_xray":
        return IuXray(root, images, known(source.annotation), skip)
    return Collection(source.dataset, root, images, skip)


def studies(source: Source, reader: Reader, part: int, parts: int) -> Iterator[Study]:
    """The labelled studies of one part of a source that have films, in an order that depends on the patients alone.

    Labels are those of the report as it was, before its transforms.
    """
    # Collections of labels or boxes alone have no report that could be wanted, PadChest none in sections.
    sections = [source.dataset.has(section) for section in ("findings", "impression")]
    wanted = ("fi",) if source.only_fi and all(sections) else ()
    change = _changes(reader, (*wanted, *source.transforms))
    left = None
    if source.max_studies is not None:
        left = source.max_studies * (part + 1) // parts - source.max_studies * part // parts
    for patient in partition(reader.patients(), part, parts):
        for study in reader.studies(patient):
            if left == 0:
                return
            if study.split not in source.splits or (any(sections) and not (study.findings or study.impression)):
                continue
            changed = change(study)
            if changed is None:
                continue
            labels, study = reader.labels(study), changed
            if source.frontal_only:
                study = replace(study, images=tuple(image for image in study.images if image.frontal))
            if not source.phantom_films and all(reader.film(study, image) is None for image in study.images):
                continue
            yield replace(study, labels=labels)
            left = None if left is None else left - 1


@lru_cache(maxsize=8)
def _changes(reader: Reader, names: tuple[str, ...]) -> transforms.Transform:
    """The chain of transforms, which may read all training studies first; once for all parts of a task."""

    def training() -> Iterator[Study]:
        for patient in reader.patients():
            yield from (study for study in reader.studies(patient) if study.split == "train")

    return transforms.chain(names, training)


def phantom_films(study: Study, views: Sequence[str], size: int, seed: int) -> tuple[Study, list[bytes]]:
    """The study with a phantom of each view in place of its films, and their JPEGs."""
    findings = Findings.from_tags(study.tags)
    films = [draw(study.key, findings, view, size, seed) for view in views]
    images = tuple(Image(f"{study.id}-phantom-{f.view}", f.view, size, size, f.boxes, phantom=True) for f in films)
    return replace(study, images=images), [film.jpeg() for film in films]
