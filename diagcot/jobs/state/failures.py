"""What executions raised: `failed/<task>.<attempt>.r<rank>.json`, one file for each rank that failed."""

import json
import os
import time
import traceback
from pathlib import Path
from typing import Any

from diagcot.jobs.errors import StorageError, UserError
from diagcot.jobs.state.files import write_json

FRAMES = 6  # of a traceback that are kept, the innermost last
MESSAGE = 2000  # characters of a message that are kept
LOST_PEER = "LostPeer"  # the type of a failure that only says that another rank has ended
UPSTREAM_INCOMPLETE = "UpstreamIncomplete"  # the type of a failure of a stage that the task follows


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
        "for_user": isinstance(error, UserError) and not isinstance(error, StorageError),
        "where": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-FRAMES:]],
    }
    folder = stage_dir / "failed"
    folder.mkdir(exist_ok=True)
    write_json(folder / f"{task}.{attempt}.r{rank}.json", row)


def first_cause(error: BaseException) -> BaseException:
    """The exception that a remote process raised (Ray wraps it with its whole traceback as the message), or the error itself."""
    seen: list[BaseException] = []
    while isinstance(inner := getattr(error, "cause", None), BaseException) and inner not in seen:
        seen.append(error)
        error = inner
    return error


def read(stage_dir: Path) -> list[dict[str, Any]]:
    """What all executions of a stage raised, oldest first."""
    rows = [json.loads(path.read_bytes()) for path in (stage_dir / "failed").glob("[!.]*.json")]
    return sorted(rows, key=lambda row: (row["time"], row.get("rank", 0)))


def executions(stage_dir: Path) -> set[tuple[str, str]]:
    """(task, attempt) of the executions that failed, by one listing."""
    try:
        names = [name for name in os.listdir(stage_dir / "failed") if name.endswith(".json") and name[0] != "."]
    except FileNotFoundError:
        return set()
    return {(task, attempt) for name in names for task, _, attempt in [name.split(".r")[0].partition(".")]}
