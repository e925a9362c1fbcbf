"""Reads the files of a run (`logs/README.md` lists them); nothing here ever writes."""

import contextlib
import functools
import itertools
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagcot.jobs import UserError
from diagcot.jobs.plans import segments as parts

SETTLED_S = 2.0  # a folder that has been quiet for so long has no entry that its time stamp does not tell


def plans(run_dir: Path) -> Iterator[dict[str, Any]]:
    """The plan of every stage of the run as it stands, in the order of the run's list of stages."""
    try:
        folders = [folder for folder in run_dir.iterdir() if (folder / "plan.json").is_file()]
    except FileNotFoundError:
        return
    grown = parts.times(run_dir)
    found = [plan_of(folder, (folder / "plan.json").stat().st_ino, grown) for folder in folders]
    place = {name: number for number, name in enumerate(_listed(run_dir))}
    yield from sorted(
        found, key=lambda plan: (place.get(plan["stage"], len(place)), plan.get("created", 0), plan["stage"])
    )


def _listed(run_dir: Path) -> list[str]:
    try:
        return (run_dir / "stages").read_text(encoding="utf-8").split()
    except FileNotFoundError:
        return []


def plan(folder: Path) -> dict[str, Any]:
    """The plan of a stage's folder as it stands."""
    return plan_of(folder, (folder / "plan.json").stat().st_ino, parts.times(folder.parent))


@functools.lru_cache(maxsize=256)
def plan_of(folder: Path, inode: int, grown: int) -> dict[str, Any]:
    """Plans only grow; a run that was removed and made anew has another inode."""
    return parts.header(folder)


@dataclass(frozen=True)
class Listing:
    """Where the units of each task stand in their files: of a million lines only those of a few tasks are parsed."""

    places: tuple[tuple[Path, int, int], ...]  # file, first byte and end of each task's lines
    last: tuple[bytes, ...]  # the name of the manifest of each task's last unit

    def manifests(self, slot: int, first: int = 0, every: int = 1) -> list[bytes]:
        """Names of the manifests (`<key>.json`) of a task's units, or of every so manieth."""
        path, begin, end = self.places[slot]
        with path.open("rb") as lines:
            lines.seek(begin)
            block = lines.read(end - begin)
        return [_manifest(line) for line in block.splitlines()[first::every]]


def _manifest(line: bytes) -> bytes:
    return line.split(b'"', 4)[3] + b".json"  # each line begins with {"key": "…"


@functools.lru_cache(maxsize=64)
def listing(path: Path, inode: int, of: tuple[parts.Part, ...]) -> Listing:
    parts.verify(path, of)
    places, last = [], []
    for part in of:
        file, at = path / part.path, 0
        with file.open("rb", buffering=1 << 20) as lines:
            for slot in range(part.tasks):
                first, end = parts.bounds([part], slot)
                block = list(itertools.islice(lines, end - first))
                places.append((file, at, at := at + sum(map(len, block))))
                last.append(_manifest(block[-1]))
    return Listing(tuple(places), tuple(last))


def listing_of(path: Path, plan: Mapping[str, Any]) -> Listing:
    return listing(path, (path / parts.UNITS).stat().st_ino, parts.parts(plan))


def damage(path: Path, plan: Mapping[str, Any]) -> str:
    """What is wrong with the lists of the stage's units, or nothing. They are read once, unless they change."""
    try:
        parts.verify(path, parts.parts(plan))
    except UserError as error:
        return str(error)
    return ""


def index_of(path: Path, key: str) -> int | None:
    """The number of the unit `key` in the stage's plan."""
    before, head = 0, b'{"key": "%s"' % key.encode()
    for part in parts.parts(plan(path)):
        parts.verify(path, [part])
        data = (path / part.path).read_bytes()
        at = 0 if data.startswith(head) else data.find(b"\n" + head) + 1
        if at or data.startswith(head):
            return before + data.count(b"\n", 0, at)
        before += part.units
    return None


def first_keys(path: Path, count: int) -> list[str]:
    return [json.loads(line)["key"] for line in parts.lines(path, parts.parts(plan(path)), 0, count)]


_done: dict[Path, tuple[int, frozenset[bytes]]] = {}


def done_manifests(path: Path) -> frozenset[bytes]:
    """Names of the manifests of a stage, by one listing; none at all while its folder has not changed."""
    folder = path / "done"
    try:
        changed = folder.stat().st_mtime_ns
        if path in _done and _done[path][0] == changed:
            return _done[path][1]
        found = _manifests(os.listdir(os.fsencode(folder)))
    except FileNotFoundError:
        return frozenset()
    _done.pop(path, None)
    if time.time() - changed / 1e9 > SETTLED_S:
        _done[path] = changed, found
    return found


def _manifests(names: list[bytes]) -> frozenset[bytes]:
    """Those that are manifests, not files which are being written."""
    together = b"\n".join([b"", *names, b""])  # a look at each of a million would take longer than all else
    if together.count(b".json\n") < len(names) or b"\n." in together:
        names = [name for name in names if name.endswith(b".json") and not name.startswith(b".")]
    return frozenset(names)


def changed(path: Path) -> float | None:
    """When a file or the entries of a folder last changed."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None


def ages(path: Path, manifests: Iterable[bytes]) -> Iterator[float]:
    """When these manifests of a stage were written."""
    folder = os.fsencode(path / "done") + b"/"
    for name in manifests:
        with contextlib.suppress(FileNotFoundError):
            yield os.stat(folder + name).st_mtime  # noqa: PTH116  (a Path for each of thousands is what takes long)


def names(folder: Path, suffix: str) -> list[str]:
    """Stems of the visible files of a folder."""
    try:
        return [name.removesuffix(suffix) for name in os.listdir(folder) if name.endswith(suffix) and name[0] != "."]
    except FileNotFoundError:
        return []


def progress_of(path: Path, slot: int) -> dict[str, Any] | None:
    """What task `slot` last said of itself."""
    return read_json(path / "progress" / f"{slot:05d}.json")


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file; None where there is none, or only half of one."""
    try:
        row: dict[str, Any] = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return row


def attempts_of(path: Path) -> list[dict[str, Any]]:
    """The submissions of the stage, first to last."""
    numbers = sorted((name for name in names(path / "attempts", ".json") if name.isdigit()), key=int)
    files = [path / "attempts" / f"{name}.json" for name in numbers]
    return [_attempt(file, file.stat().st_ino) for file in files]


@functools.lru_cache(maxsize=512)
def _attempt(path: Path, inode: int) -> dict[str, Any]:
    attempt: dict[str, Any] = json.loads(path.read_bytes())
    return attempt


def ids_of(attempt: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """(task, job id) of one submission."""
    for array in attempt.get("arrays", ()):
        slots = array["slots"]
        for index, slot in enumerate(slots):
            yield slot, f"{array['job']}_{index}" if len(slots) > 1 else array["job"]


def job_names(run_dir: Path) -> dict[str, str]:
    """Id -> name of every job and array that was ever submitted for the run, finalisers included.

    A name is unique for ever, an id is not (MaxJobId): a row of Slurm's that has another name is another job's.
    """
    found: dict[str, str] = {}
    for plan in plans(run_dir):
        for attempt in attempts_of(run_dir / plan["stage"]):
            found |= {array["job"]: array.get("name", "") for array in attempt.get("arrays", ())}
            if attempt.get("finaliser"):
                found[attempt["finaliser"]] = attempt.get("finaliser_name", "")
    return found


def submitting(run_dir: Path) -> bool:
    """Whether a launcher is, or was killed, in the middle of a submission."""
    return any(True for _ in run_dir.glob("*/attempts/*.intent"))


def started(path: Path) -> float | None:
    """When the first task began: the first line of the events."""
    try:
        with (path / "events.jsonl").open("rb") as lines:
            return float(json.loads(lines.readline())["time"])
    except (FileNotFoundError, ValueError, KeyError):
        return None
