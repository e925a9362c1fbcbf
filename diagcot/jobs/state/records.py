"""The records of a unit that are finished so far, so that a killed execution costs at most what was in flight."""

import contextlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

from diagcot.jobs.names import HALF
from diagcot.jobs.state import reading

OF = "~"
"""Between a unit's key and the execution in the name of a file of records. No key has it: `a` and `a.b` may both be units."""


def files_of(stage_dir: Path, key: str) -> list[Path]:
    """The files with finished records of a unit, one of each of its executions."""
    return reading.listing(stage_dir / "partial", f"{key}{OF}*.jsonl")


class Records:
    """The finished records of one unit: `partial/<key>~<attempt>.jsonl`, one file for each execution.

    Each record is an object with an "id". What earlier executions finished is read at the start; a torn last line is
    dropped and its record done again. Each file has one writer, so a second, forgotten execution cannot tear lines.
    Records stay on disk; memory holds the id and the place of each, so that a unit may have any number of them.
    """

    def __init__(self, stage_dir: Path, key: str, attempt: str) -> None:
        folder = stage_dir / "partial"
        folder.mkdir(parents=True, exist_ok=True)
        self._own = folder / f"{key}{OF}{attempt}.jsonl"
        self._earlier = [path for path in files_of(stage_dir, key) if path != self._own]
        self._places: dict[str, tuple[Path, int]] = {}  # file and offset of each record's line
        self.torn = 0
        self._cut = False  # True if our own file ends in the middle of a line
        for path in [*self._earlier, *([self._own] if self._own.exists() else [])]:
            for record_id, offset in self._read(path):
                self._places.setdefault(record_id, (path, offset))
        self._out = io.TextIOWrapper(io.BufferedWriter(reading.File(self._own, "a")), encoding="utf-8")
        if self._cut:
            self._out.write("\n")  # so that the next record does not become part of the torn line
            self._out.flush()
        self._end = self._own.stat().st_size

    def _read(self, path: Path) -> Iterator[tuple[str, int]]:
        line, end = b"\n", 0
        for line in reading.lines(path):
            offset, end = end, end + len(line)
            try:
                row = json.loads(line)
                if line.endswith(b"\n") and isinstance(row, dict) and isinstance(row.get("id"), str):
                    yield row["id"], offset
                    continue
            except (ValueError, RecursionError):
                pass
            self.torn += 1
            print(f"{path}: a torn line is dropped and its record done again", flush=True)
        self._cut = path == self._own and not line.endswith(b"\n")

    @property
    def ids(self) -> set[str]:
        """Ids of all finished records."""
        return set(self._places)

    def __contains__(self, record_id: str) -> bool:
        return record_id in self._places

    def __len__(self) -> int:
        return len(self._places)

    def append(self, row: Mapping[str, Any]) -> None:
        """Write a finished record. A second one with the same id is ignored."""
        if row["id"] in self._places:
            return
        line = json.dumps(row, ensure_ascii=False) + "\n"
        if HALF.search(line):
            line = json.dumps(row) + "\n"
        self._out.write(line)
        self._out.flush()
        self._places[row["id"]] = (self._own, self._end)
        self._end += len(line.encode())

    def rows(self) -> Iterator[Any]:
        """All records, sorted by id, so that the order in which they were finished does not matter."""
        with contextlib.ExitStack() as stack:
            files = {path: stack.enter_context(path.open("rb")) for path in [*self._earlier, self._own]}
            for key in sorted(self._places):
                path, offset = self._places[key]
                yield json.loads(reading.patient(path, partial(_line, files[path], offset)))

    def close(self) -> None:
        """Flush our own file to disk and close it."""
        self._out.flush()
        os.fsync(self._out.fileno())
        self._out.close()


def _line(file: IO[bytes], offset: int) -> bytes:
    file.seek(offset)
    return file.readline()
