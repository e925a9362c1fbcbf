"""Which units are done, and the records a unit has got so far. Files decide; nothing is keyed by position.

A unit is done when `done/<key>.json` exists. Publishing has two steps. The manifest is created exclusively and names
every output with its digest and the staged path it was written to: this is the commit. Then each staged path is
renamed to its final name. Whoever finds a manifest whose renames were cut short finishes them (`settle`), so a kill
between the two loses nothing, and of two executions of a unit only the one that created the manifest publishes.
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diagcot.jobs.state.files import create_exclusively, digest, fsync_path, fsync_tree, write_json

if TYPE_CHECKING:
    from diagcot.jobs.plans.plan import Plan


def done_keys(stage_dir: Path) -> set[str]:
    """Keys of all published units, by one listing."""
    try:
        return {name[:-5] for name in os.listdir(stage_dir / "done") if name.endswith(".json") and name[0] != "."}
    except FileNotFoundError:
        return set()


def manifest(stage_dir: Path, key: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads((stage_dir / "done" / f"{key}.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return found


def publish(
    stage_dir: Path, key: str, outputs: Mapping[Path, Path], counts: Mapping[str, Any], about: Mapping[str, Any]
) -> bool:
    """Publish `outputs` (final path -> staged path) and mark unit `key` done.

    Returns False, and drops what was staged, if another execution has published the unit already.
    """
    folder = stage_dir / "done"
    if (folder / f"{key}.json").exists():  # seen before the costly part; who is first is decided below
        for staged in outputs.values():
            remove(staged)
        return False
    rows = {}
    for final, staged in outputs.items():
        fsync_tree(staged)
        fsync_path(staged.parent)
        rows[str(final)] = {"staged": str(staged), "sha256": digest(staged)}
    text = json.dumps({"unit": key, "outputs": rows, "counts": dict(counts), "time": time.time(), **about}, indent=1)
    folder.mkdir(parents=True, exist_ok=True)
    won = create_exclusively(folder / f"{key}.json", text + "\n")
    if won:
        settle(stage_dir, key)
    else:
        for staged in outputs.values():
            remove(staged)
    return won


def settle(stage_dir: Path, key: str) -> list[Path]:
    """Finish the renames of a published unit; returns the outputs that are missing all the same."""
    found = manifest(stage_dir, key)
    missing = []
    for name, row in (found or {"outputs": {}})["outputs"].items():
        final, staged = Path(name), Path(row["staged"])
        if staged.exists():
            if final.is_dir():  # a folder cannot be replaced by a rename; an older product of an earlier plan makes way
                shutil.rmtree(final)
            try:
                os.replace(staged, final)
                fsync_path(final.parent)
            except FileNotFoundError:
                pass  # another process settled it in between
        if not final.exists():
            missing.append(final)
    return missing


def withdraw(stage_dir: Path, key: str) -> None:
    """Take back that a unit is done, so that it runs again; its outputs are removed."""
    for name in (manifest(stage_dir, key) or {"outputs": {}})["outputs"]:
        remove(Path(name))
    (stage_dir / "done" / f"{key}.json").unlink(missing_ok=True)
    for partial in (stage_dir / "partial").glob(f"{key}.*.jsonl"):
        partial.unlink()


def supersede(stage_dir: Path, key: str, by: str) -> None:
    """End a unit whose place another has taken: it counts as done, owns no output, and no execution of it publishes any more.

    What it had published stays where it is until `by` replaces it, and in its manifest under `was`. Safe to repeat.
    """
    folder = stage_dir / "done"
    folder.mkdir(parents=True, exist_ok=True)
    ended = {"unit": key, "outputs": {}, "counts": {}, "time": time.time(), "superseded": by}
    if create_exclusively(folder / f"{key}.json", json.dumps(ended, indent=1) + "\n"):
        return
    settle(stage_dir, key)
    found = manifest(stage_dir, key) or {}
    if "superseded" not in found:
        was = {name: found[name] for name in ("outputs", "counts")}
        write_json(folder / f"{key}.json", found | {"outputs": {}, "counts": {}, "superseded": by, "was": was})


def marks(plan: "Plan", only: int | None = None) -> dict[int, list[int]]:
    """Task -> how far it is, a list that only grows while it makes progress: units done, bytes of records, steps.

    only: the task that is asked for, so that other tasks' units need not be read.
    """
    done = done_keys(plan.path)
    sizes: dict[str, int] = {}
    steps: dict[int, int] = {}
    with contextlib.suppress(FileNotFoundError), os.scandir(plan.path / "partial") as entries:
        for entry in entries:
            key = entry.name.removesuffix(".jsonl").rpartition(".")[0]
            sizes[key] = sizes.get(key, 0) + entry.stat().st_size
    for path in (plan.path / "progress").glob("[!.]*.json"):
        with contextlib.suppress(ValueError, OSError):
            steps[int(path.stem)] = int(json.loads(path.read_text())["done"] * 1000)
    found: dict[int, list[int]] = {}
    first, keys = 0, list[str]()
    if done or sizes:
        first, keys = (0, plan.keys) if only is None else (plan.bounds(only)[0], plan.keys_of(only))
    for index, key in enumerate(keys, first):
        if key in done or key in sizes:
            mark = found.setdefault(plan.slot_of(index), [0, 0, 0])
            mark[0] += key in done
            mark[1] += sizes.get(key, 0)
    for slot, value in steps.items():
        found.setdefault(slot, [0, 0, 0])[2] = value
    return found


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


class Records:
    """Record-level progress of one unit: `partial/<key>.<attempt>.jsonl`, one file for each execution.

    Each record is an object with an "id". What earlier executions finished is read at the start; a torn last line is
    dropped and its record done again. A single writer per file keeps a second, forgotten execution from tearing lines.
    Rows stay on disk; memory holds the ids and the place of each, so that a unit may have any number of records.
    """

    def __init__(self, stage_dir: Path, key: str, attempt: str) -> None:
        folder = stage_dir / "partial"
        folder.mkdir(parents=True, exist_ok=True)
        self._mine = folder / f"{key}.{attempt}.jsonl"
        self._earlier = sorted(path for path in folder.glob(f"{key}.*.jsonl") if path != self._mine)
        self._places: dict[str, tuple[Path, int]] = {}  # file and offset of each record's line
        self.torn = 0
        self._cut = False  # whether our own file ends in the middle of a line
        for path in [*self._earlier, *([self._mine] if self._mine.exists() else [])]:
            for record_id, offset in self._read(path):
                self._places.setdefault(record_id, (path, offset))
        self._out = self._mine.open("a", encoding="utf-8")
        if self._cut:
            self._out.write("\n")  # so that what is appended does not become part of the torn line
            self._out.flush()
        self._end = self._mine.stat().st_size

    def _read(self, path: Path) -> Iterator[tuple[str, int]]:
        line, end = b"\n", 0
        with path.open("rb") as lines:
            for line in lines:
                offset, end = end, end + len(line)
                try:
                    row = json.loads(line)
                    if line.endswith(b"\n") and isinstance(row, dict) and "id" in row:
                        yield row["id"], offset
                        continue
                except ValueError:
                    pass
                self.torn += 1
                print(f"{path}: a torn line is dropped and its record done again", flush=True)
        self._cut = path == self._mine and not line.endswith(b"\n")

    @property
    def ids(self) -> set[str]:
        return set(self._places)

    def __contains__(self, record_id: str) -> bool:
        return record_id in self._places

    def __len__(self) -> int:
        return len(self._places)

    def append(self, row: dict[str, Any]) -> None:
        """Keep a finished record. A second one with the same id is ignored."""
        if row["id"] in self._places:
            return
        line = json.dumps(row, ensure_ascii=False) + "\n"
        self._out.write(line)
        self._out.flush()
        self._places[row["id"]] = (self._mine, self._end)
        self._end += len(line.encode())

    def rows(self) -> Iterator[dict[str, Any]]:
        """All records, sorted by id, so that the order of finishing leaves no trace in the output."""
        with contextlib.ExitStack() as stack:
            files = {path: stack.enter_context(path.open("rb")) for path in [*self._earlier, self._mine]}
            for key in sorted(self._places):
                path, offset = self._places[key]
                files[path].seek(offset)
                yield json.loads(files[path].readline())

    def close(self) -> None:
        self._out.flush()
        os.fsync(self._out.fileno())
        self._out.close()
