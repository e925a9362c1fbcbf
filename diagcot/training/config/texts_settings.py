"""Typed settings of kind `texts`. Imported while planning, so nothing heavy is imported here."""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from diagcot.jobs import UserError
from diagcot.jobs.settings import Settings
from diagcot.shards.settings import resolved


class TextsSettings(Settings):
    """Kind `texts`: text conversations on the user's disk become samples (CX-Mind's first stage, arXiv:2508.03733).

    Rows are objects of a `.jsonl` file, or of the list in a `.json` file: `conversations` (sharegpt: from, value),
    `messages` (role, content), or `instruction`, `input`, `output` (alpaca; `system` and `history` are read too).
    """

    files: list[str] = Field(min_length=1, description="Paths or patterns of files; $VARIABLES are replaced.")
    max_samples: int | None = Field(
        None, ge=1, description="Most samples of each file, the first ones; null takes all."
    )
    on_bad_row: Literal["skip", "fail"] = Field(
        "skip", description="skip: leave out and count rows that cannot be read; fail: end the stage."
    )

    @field_validator("files")
    @classmethod
    def _absolute(cls, files: list[str]) -> list[str]:
        return [resolved(path) or path for path in files]

    def paths(self) -> list[Path]:
        """The files, sorted within each pattern. Raises UserError that lists what is missing."""
        paths: list[Path] = []
        missing = []
        for pattern in self.files:
            if "$" in pattern:
                missing.append(f"the variable in {pattern!r} is not set")
                continue
            path = Path(pattern)
            matches = [path] if path.is_file() else sorted(path.parent.glob(path.name)) if "*" in path.name else []
            paths += matches
            if not matches or not all(os.access(match, os.R_OK) for match in matches):
                missing.append(f"{pattern} does not exist or cannot be read")
        if missing:
            raise UserError("texts are missing: " + "; ".join(missing) + ". Correct `files` in the recipe")
        return paths
