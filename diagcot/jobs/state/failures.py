"""What executions raised: `failed/<task>.<attempt>.r<rank>.json`, one file for each rank that failed."""

import errno
import os
import sysconfig
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diagcot.jobs.errors import FaultIn, StorageError, UserError
from diagcot.jobs.state import documents, reading
from diagcot.jobs.state.files import write_json

_CODE = Path(__file__).resolve().parents[3]  # the folder that the suite is imported from
FRAMES = 6  # of a traceback that are kept, the innermost last
MESSAGE = 2000  # characters of a message that are kept
LOST_PEER = "LostPeer"  # the type of a failure that only says that another rank has ended
UPSTREAM_INCOMPLETE = "UpstreamIncomplete"  # the type of a failure of a stage that the task follows
PARKED = 75  # exit code (EX_TEMPFAIL of sysexits.h) of a parked task that could not requeue itself
INTERRUPTED = 76  # exit code of a task that was parked by SIGTERM alone
SITE_ERRORS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EAGAIN,
    errno.EIO,
    errno.ESTALE,
    errno.EMFILE,
    errno.ENFILE,
)
"""System errors of a disk, a file server or a limit of the site."""


def write(stage_dir: Path, task: str, attempt: str, rank: int, unit: str, error: BaseException, kind: str = "") -> None:
    """Record what a rank of an execution raised. kind: the type that is recorded, by default the error's own."""
    frames, cause = traceback.extract_tb(error.__traceback__), first_cause(error)
    row = {
        "task": task,
        "unit": unit,
        "attempt": attempt,
        "rank": rank,
        "host": os.uname().nodename,
        "time": time.time(),
        "type": kind or type(cause).__name__,
        "message": str(cause)[:MESSAGE],
        "fault_in": fault_in(error, [frame.filename for frame in frames]),
        "for_user": isinstance(error, UserError) and not isinstance(error, StorageError),
        "where": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-FRAMES:]],
    }
    folder = stage_dir / "failed"
    folder.mkdir(exist_ok=True)
    write_json(folder / f"{task}.{attempt}.r{rank}.json", row)


def fault_in(error: BaseException, files: Sequence[str]) -> FaultIn:
    """Where the fault lies that caused an error. files: of its stack frames, the innermost last.

    An error that is not for the user is of their own code if the last frame outside of libraries is in a file of theirs.
    """
    cause = first_cause(error)
    if isinstance(cause, MemoryError) or "out of memory" in str(cause).lower():
        return "memory"
    for raised in (error, cause):
        if isinstance(raised, UserError):
            return raised.fault_in
    number = cause.errno if isinstance(cause, OSError) else reading.number_in(str(cause))
    if number in SITE_ERRORS:
        return "site"
    libraries = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    last = next((file for file in reversed(files) if not file.startswith((*libraries, "<"))), str(_CODE))
    return "ours" if Path(last).is_relative_to(_CODE) else "own code"


def fault_of(row: Mapping[str, Any]) -> str:
    """Where the fault of a recorded failure lies; rows of an earlier version do not say it."""
    return str(row.get("fault_in") or ("recipe" if row.get("for_user") else "ours"))


def first_cause(error: BaseException) -> BaseException:
    """The exception that a remote process raised (Ray wraps it with its whole traceback as the message), or the error itself."""
    seen: list[BaseException] = []
    while isinstance(inner := getattr(error, "cause", None), BaseException) and inner not in seen:
        seen.append(error)
        error = inner
    return error


def read(stage_dir: Path) -> list[dict[str, Any]]:
    """What all executions of a stage raised, oldest first. Of a damaged file the name says which execution failed."""
    rows = [_row(path) for path in reading.listing(stage_dir / "failed", "*.json")]
    return sorted(rows, key=lambda row: (row["time"], row.get("rank", 0)))


def _row(path: Path) -> dict[str, Any]:
    task, _, attempt = path.stem.rpartition(".r")[0].partition(".")
    try:
        row = documents.read(path, documents.FAILURE)
        if (row["task"], row["attempt"]) == (task, attempt):
            return row
        error: UserError = documents.damaged(
            path, documents.FAILURE, "it is about another execution than its name says"
        )
    except UserError as damage:
        error = damage
    about = {"task": task, "attempt": attempt, "rank": 0, "unit": "", "for_user": True, "fault_in": "site"}
    return about | {"time": path.lstat().st_mtime, "type": type(error).__name__, "message": str(error)}


def executions(stage_dir: Path) -> set[tuple[str, str]]:
    """(task, attempt) of the executions that failed, by one listing."""
    try:
        names = [name for name in os.listdir(stage_dir / "failed") if name.endswith(".json") and name[0] != "."]
    except FileNotFoundError:
        return set()
    return {(task, attempt) for name in names for task, _, attempt in [name.split(".r")[0].partition(".")]}
