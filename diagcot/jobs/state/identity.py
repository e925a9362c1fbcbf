"""Ids that join files: an id that stands for two things would give one of them what belongs to the other."""

from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

from diagcot.jobs.errors import UserError


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


def by_id(rows: Iterable[Mapping[str, Any]], file: Path, what: str, remedy: str) -> dict[str, Any]:
    """Rows of one file by their `id`. Raises UserError for an id that is there twice."""
    ids = Ids(what, remedy)
    found: dict[str, Any] = {}
    for row in rows:
        ids.add(row["id"], file)
        found[row["id"]] = row
    return found
