"""Settings of kind `import`. Imported while planning, so nothing heavy is imported here."""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from diagcot.data.study import HeldOut
from diagcot.jobs import UserError
from diagcot.jobs.settings import Settings
from diagcot.shards.settings import resolved


class ImportedFile(Settings):
    """A file of conversations, or a folder of such files. Paths may contain $VARIABLES."""

    path: str = Field(
        description="A .json, .jsonl or .parquet file, a pattern of such files, a folder that `datasets` saved to disk, or a"
        " folder of LLaMA-Factory with `dataset_info.json`."
    )
    sets: list[str] | None = Field(
        None, description="Names of sets in `dataset_info.json` of the folder; null: all of them."
    )
    images: str | None = Field(
        None, description="Folder that relative paths of images begin at; null: the folder that holds the rows."
    )
    columns: dict[str, str] = Field(
        {},
        description="Column that this suite reads (problem, answer, images, patient, …) -> name of the column in the file.",
    )
    split: Literal["", "train", "validate", "test"] = Field(
        "", description="Split of all rows; empty: that of their column `split`, or by `held_out`."
    )

    @field_validator("path", "images")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        return resolved(path)


class ImportSettings(Settings):
    """Kind `import`: conversations about images become a shard of these images and samples that refer to it.

    Rows are those of LLaMA-Factory (ShareGPT, alpaca), EasyR1 (`problem`, `answer`), verl (`prompt`, `reward_model`), OpenAI's
    chat format (`messages`) or TRL, recognised row by row; docs/exchange.md has the columns.
    """

    files: list[ImportedFile] = Field(min_length=1, description="Files and folders to read.")
    name: str = Field(
        "imported",
        pattern=r"^\w[\w.-]*$",
        description="Name of the collection: the first part of the key of its studies, for rows that name none.",
    )
    task: str = Field(
        "imported", min_length=1, description="Task of rows that name none; `rewards` of a GRPO stage go by it."
    )
    patient: str = Field(
        r"(?:^|/)(p\d{8}|patient\d+)(?=/)",
        description="Regular expression that finds the patient in an image's path, its first group; the default knows the"
        " folders of MIMIC-CXR and CheXpert.",
    )
    study: str = Field(
        r"(?:^|/)(s\d{8})(?=/)",
        description="Regular expression that finds the study in an image's path, its first group; the default knows the"
        " folders of MIMIC-CXR.",
    )
    held_out: HeldOut = Field(
        {},
        description="Share of the patients in each split, from 0 to 1, chosen by hash, for rows that state no split.",
    )
    image_size: int = Field(
        512, ge=16, description="Longest side of an image in pixels, 16 or more; images are never enlarged."
    )
    jpeg_quality: int = Field(90, ge=1, le=95, description="JPEG quality of the images, 1 to 95.")
    max_lost: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Largest share of the rows or images that may be lost, from 0 to 1; beyond it the stage fails and names"
        " the reasons.",
    )

    @property
    def shares(self) -> dict[str, float]:
        """Share of the patients in each split."""
        held_out = {str(split): share for split, share in self.held_out.items()}
        return {"train": 1 - sum(held_out.values()), **held_out}

    def paths(self) -> list[tuple[ImportedFile, Path]]:
        """Each entry with the files or folders that it names. Raises UserError that lists what is missing."""
        found: list[tuple[ImportedFile, Path]] = []
        missing = []
        for entry in self.files:
            path = Path(entry.path)
            if unset := next((p for p in (entry.path, entry.images or "") if "$" in p), ""):
                missing.append(f"the variable in {unset!r} is not set")
                continue
            matches = [path] if path.exists() else sorted(path.parent.glob(path.name)) if "*" in path.name else []
            found += [(entry, match) for match in matches]
            if not matches or not all(os.access(match, os.R_OK) for match in matches):
                missing.append(f"{path} does not exist or cannot be read")
        if missing:
            raise UserError("files to import are missing: " + "; ".join(missing) + ". Correct `files` in the recipe")
        return found
