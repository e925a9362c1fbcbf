"""Ids that join files: an id that stands for two things would give one of them what belongs to the other."""

import json
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

from diagcot.jobs.errors import UserError
from diagcot.jobs.state import reading


class Ids:
    """The ids that were met, each with the file that has it. what: what an id stands for. remedy: what to do about doubles."""

    def __init__(self, what: str, remedy: str) -> None:
        self._what, self._remedy = what, remedy
        self._files: dict[Hashable, Path] = {}

    def add(self, key: Hashable, file: Path, *, name: str = "") -> None:
        """Note an id. Raises UserError that names both files if it was met before. name: of the id in that message."""
        if key in self._files:
            raise doubled(self._what, name or str(key), self._files[key], file, self._remedy)
        self._files[key] = file


def doubled(what: str, name: str, first: Path, second: Path, remedy: str) -> UserError:
    """The error for an id that stands for two things, in two files or twice in one."""
    where = f"twice in {first}" if first == second else f"in {first} and in {second}"
    return UserError(f"{what} {name} is {where}: {remedy}")


def rows(file: Path, *names: str) -> Iterator[Any]:
    """The rows of a file of JSON lines that a stage has written, with these texts in each.

    Raises UserError that names file and line for one that has been damaged since.
    """
    for number, line in enumerate(reading.lines(file), 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in names):
            raise UserError(f"{file}:{number} is damaged: it is no object with {', '.join(names)}; run its stage again")
        yield row


def by_id(file: Path, what: str, remedy: str) -> dict[str, Any]:
    """Rows of one file by their `id`. Raises UserError for an id that is there twice, and as `rows`."""
    ids = Ids(what, remedy)
    found: dict[str, Any] = {}
    for row in rows(file, "id"):
        ids.add(row["id"], file)
        found[row["id"]] = row
    return found
