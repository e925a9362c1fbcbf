"""The units of a stage: in memory while a stage is declared, read from its files once they are written."""

import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, overload

from diagcot.jobs.errors import UserError
from diagcot.jobs.names import LONGEST, LONGEST_KEY
from diagcot.jobs.plans import segments
from diagcot.jobs.plans.segments import Segment
from diagcot.jobs.state import reading

BLOCK = 10_000  # units written at once
KEYS = re.compile(rf"(?:[\w+=-][\w.+=-]{{0,{LONGEST_KEY - 1}}}\n)*", re.ASCII)


class Unit(NamedTuple):
    """The smallest piece of a stage that is done or not done.

    `key` is a file name of at most 160 letters, digits and `._-+=`, unique in its stage; `params` is what its kind needs to
    know, of JSON types.
    """

    key: str
    params: Mapping[str, Any] = MappingProxyType({})


class Units(Sequence[Unit]):
    """The units of a plan in memory, as columns: a million of them take 70 MB."""

    def __init__(self, units: Iterable[Unit | str]) -> None:
        listed = list(units)
        self.keys: list[str] = [unit if isinstance(unit, str) else unit.key for unit in listed]
        self.params: dict[int, Mapping[str, Any]] = {  # position -> parameters, where there are any
            index: unit.params for index, unit in enumerate(listed) if not isinstance(unit, str) and unit.params
        }

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, at: int) -> Unit: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Unit]: ...
    def __getitem__(self, at: int | slice) -> Unit | Sequence[Unit]:
        if isinstance(at, slice):
            return tuple(self[index] for index in range(*at.indices(len(self.keys))))
        index = range(len(self.keys))[at]
        return Unit(self.keys[index], self.params[index]) if index in self.params else Unit(self.keys[index])


class Listing(Sequence[Unit]):
    """The units of a stored plan, read from its files only as far as they are needed.

    Raises UserError if a file is not what was planned.
    """

    def __init__(self, stage_dir: Path, planned: Sequence[Segment]) -> None:
        self._folder, self._segments, self._count = stage_dir, planned, sum(segment.units for segment in planned)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> Unit: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Unit]: ...
    def __getitem__(self, at: int | slice) -> Unit | Sequence[Unit]:
        if isinstance(at, int):
            return self[at : at + 1 or None][0]
        first, last, step = at.indices(self._count)
        return tuple(_unit(line) for line in segments.lines(self._folder, self._segments, first, last))[::step]

    @cached_property
    def keys(self) -> list[str]:
        """Keys of all units, in order."""
        segments.verify(self._folder, self._segments)
        return [key for segment in self._segments for key in _keys(self._folder / segment.path)]


def _keys(path: Path) -> list[str]:
    with io.TextIOWrapper(reading.opened(path), encoding="utf-8") as lines:
        return [line.split('"', 4)[3] for line in lines]  # each line begins with {"key": "…", see `encode`


def check_keys(keys: Sequence[str], stage: str) -> None:
    """Raise UserError if a key cannot name a file, or comes twice."""
    for start in range(0, len(keys), BLOCK):
        if not KEYS.fullmatch("\n".join([*keys[start : start + BLOCK], ""])):
            bad = next(key for key in keys if not KEYS.fullmatch(f"{key}\n"))
            raise UserError(
                f"stage {stage}: a unit's key is a file name of at most {LONGEST_KEY} letters, digits and ._-+=, not"
                f" {bad[:LONGEST]!r}" + f" ({len(bad):,} characters)" * (len(bad) > LONGEST)
            )
    if len(set(keys)) < len(keys):
        twice = next(key for key, same in itertools.groupby(sorted(keys)) if len(list(same)) > 1)
        raise UserError(f"stage {stage}: two units have the key {twice!r}")


def encode(units: Units | Listing) -> Iterator[bytes]:
    """The text of units.jsonl in blocks: one line for each unit, its key first."""
    keys, params = units.keys, units.params if isinstance(units, Units) else {}
    for start in range(0, len(keys), BLOCK):
        rows = [f'{{"key": "{key}"}}\n' for key in keys[start : start + BLOCK]]
        for index in range(start, start + len(rows)) if params else ():
            if index in params:
                params_text = json.dumps(dict(params[index]), sort_keys=True)[1:]
                rows[index - start] = f'{{"key": "{keys[index]}", {params_text}\n'
        yield "".join(rows).encode()


def _unit(line: bytes) -> Unit:
    row = json.loads(line)
    return Unit(row.pop("key"), row)
