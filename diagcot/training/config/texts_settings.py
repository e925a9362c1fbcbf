"""Typed settings of kind `texts`. Imported while planning, so nothing heavy is imported here."""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from diagcot.jobs import UserError
from diagcot.jobs.settings import Settings
from diagcot.shards.settings import resolved


class TextsSettings(Settings):
    """Kind `texts`: text conversations on the user's disk become samples (CX-Mind's first stage, method.md 7).

    Rows are objects of a `.jsonl` file, or of the list in a `.json` file: `conversations` (sharegpt: from, value),
    `messages` (role, content), or `instruction`, `input`, `output` (alpaca; `system` and `history` are read too).
    """

    files: list[str] = Field(min_length=1, description="paths or patterns; $VARIABLES are replaced")
    max_samples: int | None = Field(None, ge=1, description="of each file, the first ones")
    on_bad_row: Literal["skip", "fail"] = "skip"

    @field_validator("files")
    @classmethod
    def _absolute(cls, files: list[str]) -> list[str]:
        return [resolved(path) or path for path in files]

    def paths(self) -> list[Path]:
        """The files, sorted within each pattern. Raises UserError that lists what is not there."""
        found: list[Path] = []
        lacking = []
        for pattern in self.files:
            if "$" in pattern:
                lacking.append(f"the variable in {pattern!r} is not set")
                continue
            path = Path(pattern)
            some = [path] if path.is_file() else sorted(path.parent.glob(path.name)) if "*" in path.name else []
            found += some
            if not some or not all(os.access(one, os.R_OK) for one in some):
                lacking.append(f"{pattern} is not there or cannot be read")
        if lacking:
            raise UserError("texts are missing: " + "; ".join(lacking) + ". Correct `files` in the recipe")
        return found
