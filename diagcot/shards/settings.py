"""Settings of the stage that builds shards; commands that only plan read them too."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from diagcot.data.readers import registry
from diagcot.data.readers.layouts import image_files, missing_iu, missing_mimic, missing_tables, table_file
from diagcot.data.readers.registry import CollectionEntry
from diagcot.data.reports import transforms
from diagcot.data.study import HeldOut
from diagcot.jobs import UserError
from diagcot.jobs.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


class Source(Settings):
    """One collection of studies.

    Paths may contain $VARIABLES; a relative path starts at the project's root. Paths and the registry's entry are
    resolved when the settings are first read, which is at submission, because jobs run from a copy of the code and may
    not have the variables.
    """

    renamed: ClassVar[Mapping[str, str]] = {"phantom_films": "phantom_images"}

    entry: CollectionEntry | None = Field(
        None, description="The registry's entry of `kind`; filled in at submission, not meant for recipes."
    )
    kind: str = Field(
        description="Name of a collection in the registry (diagcot/data/readers/datasets/), or path of the YAML file of"
        " your own entry."
    )
    path: str | None = Field(None, description="Folder of the collection. Give either `path` or `input`.")
    input: str | None = Field(
        None, description="Role of an input stage of kind `phantoms` that writes the collection. Replaces `path`."
    )
    tables: str | None = Field(
        None, description="Folder of MIMIC-CXR-JPG's tables, for the DICOM edition of MIMIC-CXR, which has none."
    )
    reports: str | None = Field(
        None, description="MIMIC-CXR: zip file or folder of the reports, if they are not under `path`."
    )
    labels: Literal["chexpert", "negbio", "radiologist"] = Field(
        "chexpert", description="MIMIC-CXR: the table that labels are read from. `radiologist` labels 687 test studies."
    )
    images: str | None = Field(
        None,
        description="Folder of the images, if it is not `path`. IU-Xray: an empty value or an unset variable means that"
        " there are no images.",
    )
    annotation: str | None = Field(
        None, description="IU-Xray: R2Gen's annotation.json, whose split is used instead of a split by hash."
    )
    splits: list[Literal["train", "validate", "test"]] = Field(
        ["train", "validate", "test"], description="Splits whose studies are used."
    )
    only_fi: bool | None = Field(
        None,
        description="Use only studies with both findings and impression, as DiagCoT does (arXiv:2509.06409). null: true for"
        " MIMIC-CXR and IU-Xray, false for other collections. No effect on collections whose reports are not in sections.",
    )
    transforms: list[str] = Field(
        [], description="Changes of the reports by name, applied in this order; docs/data.md lists them."
    )
    section_overrides: str | None = Field(
        None, description="MIMIC-CXR: JSON file of the reports whose sections cannot be found by rule (docs/data.md)."
    )
    max_studies: int | None = Field(None, ge=0, description="Largest number of studies to use, 0 or more; null: all.")
    frontal_only: bool = Field(
        False, description="Leave lateral images out; a study that has no other image is left out too."
    )
    view: Literal["PA", "AP", "FRONTAL", "LATERAL"] | None = Field(
        None, description="View of the images whose view the collection does not state; null: it stays unknown."
    )
    held_out: HeldOut = Field(
        {},
        description="Share of the patients in each split, from 0 to 1, chosen by hash, for studies whose split the tables do"
        " not state; in place of that of the collection's entry.",
    )
    max_lost: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Largest share of the rows, studies, images, boxes or questions of the source that may be lost, from 0 to"
        " 1; beyond it the stage fails and names the reasons. What the recipe leaves out by choice is no loss.",
    )
    phantom_images: bool = Field(
        False,
        description="Draw phantoms from the report's tags for studies of which no image (with `frontal_only`: no frontal one) is"
        " in the folder of images; they are counted apart.",
    )

    @field_validator("transforms")
    @classmethod
    def _transforms_usable(cls, names: list[str]) -> list[str]:
        transforms.single_transforms(names)
        return names

    @field_validator("path", "tables", "reports", "images", "annotation", "section_overrides")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        """None for an empty path; a path with an unset variable stays as it is."""
        return resolved(path)

    @model_validator(mode="before")
    @classmethod
    def _registered(cls, value: Any) -> Any:
        if not isinstance(value, dict) or not isinstance(value.get("kind"), str) or value.get("entry"):
            return value
        try:
            entry = _entry(value["kind"])
        except UserError:
            return value  # reported by the check of `kind`, which knows its line
        return {**value, "kind": entry.name, "entry": entry}

    @field_validator("kind")
    @classmethod
    def _usable(cls, kind: str, info: ValidationInfo) -> str:
        if info.data.get("entry") is None:
            try:
                _entry(kind)
            except UserError as error:
                raise ValueError(str(error)) from error
        return kind

    @model_validator(mode="after")
    def _one_origin(self) -> "Source":
        if (self.path is None) == (self.input is None):
            raise ValueError("a source has either `path` or `input`")
        return self

    @property
    def requires_both_sections(self) -> bool:
        """Whether only studies with both findings and impression are used."""
        wanted = self.dataset.reader != "table" if self.only_fi is None else self.only_fi
        return wanted and self.dataset.has("findings") and self.dataset.has("impression")

    @property
    def dataset(self) -> CollectionEntry:
        """The registry's entry of the source."""
        assert self.entry is not None  # filled in by _registered
        return self.entry


def _entry(kind: str) -> CollectionEntry:
    return registry.find((resolved(kind) or kind) if kind.endswith((".yaml", ".yml")) else kind)


def resolved(path: str | None) -> str | None:
    """An absolute path without variables; unchanged if a variable is not set, None if it is empty."""
    filled = os.path.expandvars(path or "")
    if not filled or "$" in filled:
        return filled or None
    return str(ROOT / Path(filled).expanduser())


def usable(path: str | None) -> Path | None:
    """The path, or None if it is empty or contains an unset variable."""
    return Path(path) if path and "$" not in path else None


class BuildSettings(Settings):
    """Settings of kind `shard`: the sources, which are mixed into the same shards, and the format of the images."""

    sources: list[Source] = Field(
        min_length=1, description="Collections to read; each is distributed evenly over all shards."
    )
    shards: int = Field(1, ge=1, description="Number of shards, 1 or more. All images of a patient are in one shard.")
    image_size: int = Field(
        512, ge=16, description="Longest side of an image in pixels, 16 or more; images are never enlarged."
    )
    jpeg_quality: int = Field(90, ge=1, le=95, description="JPEG quality of the images, 1 to 95.")
    on_bad_image: Literal["skip", "fail"] = Field(
        "skip", description="`skip` leaves an unusable image out and records it; `fail` ends the unit."
    )
    on_bad_report: Literal["skip", "fail"] = Field(
        "skip",
        description="`skip` leaves an unusable report or row of a table out and records it; `fail` ends the unit.",
    )


def unsplit(source: Source) -> Iterator[str]:
    """The missing tables of splits of a collection that states them in tables of their own, if the source has no `held_out`."""
    root = usable(source.path)
    entry = source.dataset
    tables = [table for table in entry.tables if table.split is not None]
    if root is None or source.held_out or entry.held_out or not all(table.join and table.optional for table in tables):
        return
    missing = [table.patterns[0] for table in tables if table_file(table, root, usable(source.images)) is None]
    if missing:
        yield (
            f"{', '.join(missing)}: not there; studies whose split no table states are lost (put the files beside the other"
            " tables, or give the source `held_out`)"
        )


def drawn(source: Source) -> Iterator[str]:
    """How many image files there are where phantoms may take the place of images: it may not be what was meant."""
    if not source.phantom_images:
        return
    folder = usable(source.images) or (None if source.dataset.reader == "iu_xray" else usable(source.path))
    if folder is None:
        why = f"the variable in {source.images} is not set" if source.images else "the source names no folder of images"
        yield f"every image is a phantom, because {why}"
    elif folder.is_dir():
        yield f"{sum(1 for _ in image_files(folder)):,} image files in {folder}; other studies get phantoms"


def check(settings: BuildSettings) -> None:
    """Check by file names whether each source outside the run is complete. Raises UserError that lists what is missing."""
    missing: list[str] = []
    for source in settings.sources:
        if source.path is None:
            continue
        root = usable(source.path)
        if root is None:
            missing.append(f"{source.kind}: the variable in {source.path!r} is not set")
        elif source.dataset.reader == "mimic_cxr":
            parts = missing_mimic(root, usable(source.reports), usable(source.tables))
            missing += [f"{source.kind}: {root}: {part}" for part in parts]
            overrides = usable(source.section_overrides)
            if overrides is not None and not overrides.is_file():
                missing.append(f"{source.kind}: {overrides} (the list of `section_overrides`)")
        elif source.dataset.reader == "iu_xray":
            images = usable(source.images)
            missing += [f"{source.kind}: {what}" for what in missing_iu(root, images, usable(source.annotation))]
            if images is None and not source.phantom_images:
                missing.append(f"{source.kind}: images; set IU_XRAY_DIR, or `phantom_images: true` in the recipe")
        else:
            missing += [
                f"{source.kind}: {what}" for what in missing_tables(source.dataset, root, usable(source.images))
            ]
    if missing:
        raise UserError("The data is not complete; missing:\n  " + "\n  ".join(missing))
