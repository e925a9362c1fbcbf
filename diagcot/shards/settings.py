"""Settings of the stage that builds shards; read by commands that only plan."""

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationInfo, field_validator, model_validator

from diagcot.data.readers import registry
from diagcot.data.readers.layouts import missing_iu, missing_mimic, missing_tables
from diagcot.data.readers.registry import Dataset
from diagcot.data.reports import transforms
from diagcot.jobs import UserError
from diagcot.jobs.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


class Source(Settings):
    """One collection of studies.

    Paths may hold $VARIABLES, and one that is not absolute starts at the project's root. Both are settled when the
    settings are first read, which is at submission: the jobs run from a copy of the code and may lack the variables.
    So is the registry's entry, which the settings carry from then on.
    """

    entry: Dataset | None = None  # not for recipes: what the registry says of `kind`
    kind: str  # a name of the registry (diagcot/data/readers/datasets/), or the YAML file of an entry of one's own
    path: str | None = None  # the collection's folder …
    input: str | None = None  # … or the role of an input stage that wrote it (phantoms)
    tables: str | None = None  # MIMIC-CXR as DICOM: the folder of MIMIC-CXR-JPG's tables
    reports: str | None = None  # MIMIC-CXR: the reports' zip or folder, where it is not under `path`
    labels: Literal["chexpert", "negbio", "radiologist"] = "chexpert"  # MIMIC-CXR: which table of labels
    images: str | None = None  # the folder of films, where it is not `path`; IU-Xray: empty or unset variable: no films
    annotation: str | None = None  # IU-Xray: R2Gen's annotation.json, for its split
    splits: list[Literal["train", "validate", "test"]] = ["train", "validate", "test"]
    only_fi: bool = (
        True  # of reports in sections, only those with both findings and impression (DiagCoT, method.md 2.1)
    )
    transforms: list[str] = []  # changes of the reports by name and in order, see diagcot.data.reports.transforms
    section_overrides: str | None = None  # MIMIC-CXR: JSON of reports that cannot be cut by rule (docs/data.md)
    max_studies: int | None = None
    frontal_only: bool = False  # leave laterals out; a study of which nothing else is left is left out, too
    phantom_films: bool = False  # draw phantoms, from the report's tags, for studies of which no film is there

    @field_validator("transforms")
    @classmethod
    def _transforms_known(cls, names: list[str]) -> list[str]:
        transforms.spelled_out(names)
        return names

    @field_validator("path", "tables", "reports", "images", "annotation", "section_overrides")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        """None for an empty path; a path with a variable that is not set stays as it is."""
        return settled(path)

    @model_validator(mode="before")
    @classmethod
    def _registered(cls, value: Any) -> Any:
        if not isinstance(value, dict) or not isinstance(value.get("kind"), str) or value.get("entry"):
            return value
        try:
            entry = _entry(value["kind"])
        except UserError:
            return value  # told by the check of `kind`, which knows its line
        return {**value, "kind": entry.name, "entry": entry}

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str, info: ValidationInfo) -> str:
        if info.data.get("entry") is None:
            try:
                _entry(kind)
            except UserError as error:
                raise ValueError(str(error)) from error
        return kind

    @model_validator(mode="after")
    def _one_known(self) -> "Source":
        if (self.path is None) == (self.input is None):
            raise ValueError("a source has either `path` or `input`")
        return self

    @property
    def dataset(self) -> Dataset:
        assert self.entry is not None  # _registered sees to it
        return self.entry


def _entry(kind: str) -> Dataset:
    return registry.find((settled(kind) or kind) if kind.endswith((".yaml", ".yml")) else kind)


def settled(path: str | None) -> str | None:
    """An absolute path without variables; as it is where a variable is not set, None where it is empty."""
    filled = os.path.expandvars(path or "")
    if not filled or "$" in filled:
        return filled or None
    return str(ROOT / Path(filled).expanduser())


def known(path: str | None) -> Path | None:
    """The path, unless it is empty or holds a variable that is not set."""
    return Path(path) if path and "$" not in path else None


class BuildSettings(Settings):
    """sources are mixed into the same shards, each dealt evenly over them."""

    sources: list[Source]
    shards: int = 1
    image_size: int = 512  # pixels of the longest side; films are never enlarged
    jpeg_quality: int = 90
    on_bad_image: Literal["skip", "fail"] = "skip"
    on_bad_report: Literal["skip", "fail"] = "skip"

    @model_validator(mode="after")
    def _positive(self) -> "BuildSettings":
        if not self.sources or self.shards < 1 or self.image_size < 16 or not 1 <= self.jpeg_quality <= 95:
            raise ValueError("needs a source, shards >= 1, image_size >= 16 and jpeg_quality of 1 to 95")
        return self


def check(settings: BuildSettings) -> None:
    """Look, by names only, whether each source outside the run is whole. Raises UserError that lists what is not."""
    lacking: list[str] = []
    for source in settings.sources:
        if source.path is None:
            continue
        root = known(source.path)
        if root is None:
            lacking.append(f"{source.kind}: the variable in {source.path!r} is not set")
        elif source.dataset.reader == "mimic_cxr":
            missing = missing_mimic(root, known(source.reports), known(source.tables))
            lacking += [f"{source.kind}: {root}: {what}" for what in missing]
            overrides = known(source.section_overrides)
            if overrides is not None and not overrides.is_file():
                lacking.append(f"{source.kind}: {overrides} (the list of `section_overrides`)")
        elif source.dataset.reader == "iu_xray":
            images = known(source.images)
            lacking += [f"{source.kind}: {what}" for what in missing_iu(root, images, known(source.annotation))]
            if images is None and not source.phantom_films:
                lacking.append(f"{source.kind}: films; set IU_XRAY_DIR, or `phantom_films: true` in the recipe")
        else:
            lacking += [f"{source.kind}: {what}" for what in missing_tables(source.dataset, root, known(source.images))]
    if lacking:
        raise UserError("The data is not complete; missing:\n  " + "\n  ".join(lacking))
