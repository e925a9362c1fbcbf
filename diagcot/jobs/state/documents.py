"""The JSON files of a run: what each must hold, and the error that names a damaged one and the way out.

A shape is a type, a list of one shape, a tuple of shapes of which one must fit, or a mapping of keys to shapes: `key?` may
be missing, other keys may be there, and `...` stands for every key.
"""

import contextlib
import functools
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from diagcot.jobs.errors import UserError
from diagcot.jobs.state import json_text, reading

MOST = 1e15  # no count, time or size of a run is larger
NAMES: dict[Any, str] = {
    str: "a text", int: "a whole number", float: "a number", Real: "a number of any size", bool: "true or false", None: "null"
}  # fmt: skip
COPY = "Restore it from a copy, or start again under another RUN=name"


class DamagedFile(UserError):
    """A file of a run that does not hold what was written to it."""

    fault_in = "site"


@dataclass(frozen=True, eq=False)
class Format:
    """A kind of JSON file: what it holds, and what to do about a damaged one, with {stage}, {run} and {name}."""

    shape: Any
    remedy: str


_EDGES = [{"stage": str, "each": bool}]
_COUNTS = {...: int}
_REASONS = {...: _COUNTS}
_EXAMPLES = {...: [str]}
_NUMBER = (int, float)

RUN = Format({"run?": str, "uuid?": str, "cluster_file?": str, "recipe?": str, "stages?": [str], "cluster?": str}, COPY)
CLUSTER = Format(
    {
        "executor?": str, "environment?": {...: str}, "slurm?": {"cluster?": (str, None)}, "roots?": {...: str},
        "resource_profiles?": {...: {}}, "sizes?": {...: {}},
    },
    "`make submit-all RUN={run}` writes it again",
)  # fmt: skip
GROWTH = Format(
    {
        "time": float,
        "code?": str,
        "joined?": [str],
        "stages": {
            ...: {
                "units": int, "tasks": int, "inputs": {...: [str]}, "after": _EDGES, "settings": {}, "units_sha256?": str
            }
        },
    },
    COPY,
)  # fmt: skip
PLAN = Format(
    {
        "run": str, "stage": str, "number": str, "kind": str, "settings": {}, "inputs": {...: [str]}, "output": str,
        "workspace": str, "shards_root": str, "seed": int, "after": _EDGES,
        "resources": {"nodes": int, "tasks_per_node": int, "gpus": int, "minutes": float, "cpus?": int, "mem_gb?": (float, None)},
        "tasks": int, "units": int, "stage_dir": str, "startup_s": float, "unit_s": float, "code": str, "cluster": str,
        "created": float, "setup": [str], "yields?": str, "yields_from?": [str], "grows?": str, "listed?": [str],
        "units_sha256?": str, "profile?": str,
    },
    COPY,
)  # fmt: skip
PATHS = Format({"stage_dir": str, "output": str, "workspace": str, "shards_root": str}, COPY)
"""The part of a plan that says where the stage's files are."""
STAYS = Format(
    [{"folder": str, "moves": {...: str}, "inode?": str}],
    "It says where the run has been: restore it from a copy; a run that is where it began does without it, so remove it there",
)
ATTEMPT = Format(
    {
        "arrays": [{"job": str, "slots": [int], "name?": str, "after?": str, "resources?": {"minutes?": (float, None)}}],
        "number?": int, "why?": str, "finaliser?": str, "finaliser_name?": str, "finaliser_after?": str, "by?": str,
        "code?": str, "spent?": _COUNTS, "marks?": {...: [float]}, "time?": float,
    },
    "It names jobs of Slurm: restore it from a copy, or remove it once `squeue` shows no job of run {run}",
)  # fmt: skip
FAILURE = Format(
    {
        "task": str, "attempt": str, "time": float, "type": str, "message": str, "rank?": int, "unit?": str,
        "where?": [str], "for_user?": bool, "fault_in?": str, "host?": str,
    },
    "What it said is at the end of the task's log (`make logs STAGE={stage} RUN={run}`); remove it",
)  # fmt: skip
MANIFEST = Format(
    {
        "unit": str, "outputs": {...: {"staged": str, "sha256": str}}, "counts": {}, "time?": float, "seconds?": float,
        "startup_seconds?": float, "started?": float, "superseded?": str, "attempt?": str, "node?": str,
    },
    "Remove it, and the unit runs again: make retry STAGE={stage} RUN={run}",
)  # fmt: skip
PROGRESS = Format(
    {
        "attempt": str, "host": str, "pid": int, "time": float, "unit": str, "done": float, "total": (float, None),
        "figures": {...: (str, *_NUMBER)},
    },
    "The task's next execution writes it again; remove it",
)  # fmt: skip
SUMMARY = Format(
    {
        "state": str, "why?": str, "units?": int, "attempts?": int, "seconds?": float, "startup_seconds?": float,
        "started?": (float, None), "ended?": (float, None),
        "counts?": {
            "warnings?": [str], "seen_in_training?": int, "needed?": _COUNTS, "gpu_memory_gb?": float,
            "completion_tokens?": float, "requests?": float, "calls?": float, "told_tokens?": float,
            "cached_tokens?": float,
            "sources?": {
                ...: {
                    "read?": _COUNTS, "in_shards?": _COUNTS, "asked?": _REASONS, "lost?": _REASONS, "flagged?": _COUNTS,
                    "moved?": _COUNTS, "examples?": _EXAMPLES,
                }
            },
        },
    },
    "It adds up what the files in {stage}/done hold, for screens and reports alone; remove it",
)  # fmt: skip
ESTIMATES = Format(
    {
        ...: {
            "parameters": float, "trained": float, "tokens": (float, None), "sound": (float, None),
            "modest": (float, None), "memory": float, "other_zero_memory": float, "zero": int,
            "budget": {...: {...: float}},
        }
    },
    "It holds the estimates of `make plan`, for screens alone; remove it",
)  # fmt: skip
REUSED = Format(
    {...: {"run": str, "stage": str, "folder": str, "product": str}},
    "It names what the run has taken from other runs: restore it from a copy, or remove it and submit the run again",
)
RUNNER = Format({"code": int, "why?": str}, "Submit the run again; it is written again")
STUCK = Format({"times": int}, "Remove it")
HANDED_OVER = Format(
    {"finaliser": str, "why": str}, "Remove it, and retry the stage: make retry STAGE={stage} RUN={run}"
)

PLACES: Mapping[str, Format] = {
    "run.json": RUN,
    "cluster.yaml": CLUSTER,
    "reused.json": REUSED,
    "places.json": STAYS,
    "estimates.json": ESTIMATES,
    "runner.json": RUNNER,
    "grown/*/growth.json": GROWTH,
    "*/plan.json": PLAN,
    "*/summary.json": SUMMARY,
    "*/unsubmitted.json": HANDED_OVER,
    "*/attempts/[0-9]*.json": ATTEMPT,
    "*/failed/[0-9]*.json": FAILURE,
}
"""Where a run keeps them. Manifests (`done/`) are left out, of which there may be millions, and what tasks report each second
(`progress/`): whoever uses one reads it."""


def read(path: Path, kind: Format) -> dict[str, Any]:
    """The content of a file. Raises FileNotFoundError if there is none, DamagedFile for wrong content, or StorageError."""
    return dict(_content(path, kind))


def read_rows(path: Path, kind: Format) -> list[dict[str, Any]]:
    """As `read`, of a file that holds a list."""
    return list(_content(path, kind))


def _content(path: Path, kind: Format) -> Any:
    try:
        text = reading.read_start(path, reading.MOST_TEXT + 1)
    except reading.NoRegularFileError as error:
        raise damaged(path, kind, f"it {error.strerror}") from error
    except IsADirectoryError as error:
        raise damaged(path, kind, "it is a folder") from error
    except NotADirectoryError as error:
        raise FileNotFoundError(*error.args) from error
    if not text.strip():
        raise damaged(path, kind, "it is empty")
    if len(text) > reading.MOST_TEXT:
        raise damaged(path, kind, reading.TOO_LONG)
    try:
        row = json_text.parse_json(text.decode())
        if b"\\u" in text:  # an escape may write half a character, which no screen and no file can take
            json.dumps(row, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise damaged(path, kind, "it is not JSON") from error
    if why := fault(row, kind.shape):
        raise damaged(path, kind, why)
    return row


def find(path: Path, kind: Format) -> dict[str, Any]:
    """The content of a file; empty if there is none, or if it cannot be used: `damage` names it."""
    try:
        return read(path, kind)
    except (FileNotFoundError, UserError):
        return {}


def damaged(path: Path, kind: Format, why: str) -> DamagedFile:
    """The error for a damaged file. why: what is wrong with it."""
    inside = path.parent.name in ("attempts", "failed", "done", "progress")
    stage = path.parent.parent if inside else path.parent
    run = path.parent if kind in (RUN, CLUSTER, REUSED, STAYS, ESTIMATES, RUNNER) else stage.parent
    remedy = kind.remedy.format(stage=stage.name, run=run.name, name=path.name)
    return DamagedFile(f"{path} is damaged: {why}. {remedy}")


def damage(run_dir: Path) -> Iterator[str]:
    """What is wrong with the files of a run, one line for each that cannot be used."""
    for pattern, kind in PLACES.items():
        for path in sorted(run_dir.glob(pattern)):
            with contextlib.suppress(FileNotFoundError):
                about = path.lstat()
                if why := _damage(path, kind, about.st_ino, about.st_mtime_ns, about.st_mode):
                    yield why


@functools.lru_cache(maxsize=4096)
def _damage(path: Path, kind: Format, inode: int, changed: int, mode: int) -> str:
    try:
        _content(path, kind)
    except UserError as error:
        return str(error)
    return ""


def fault_of_paths(plan: Mapping[str, Any]) -> str:
    """What is wrong with the paths of a plan; empty if they can be used."""
    if any("\0" in plan[name] for name in PATHS.shape):
        return "a path holds the character 0"
    return "" if len(Path(plan["workspace"]).parents) > 2 else "`workspace` is no folder models/<run>/.work/<stage>"


def fault(value: Any, shape: Any, at: str = "") -> str:
    """What in a value does not fit a shape; empty if all does. Content is not shown."""
    if isinstance(shape, tuple):
        faults = [fault(value, option, at) for option in shape]
        return "" if "" in faults else faults[0]
    if isinstance(shape, Mapping):
        return _fault_of_mapping(value, shape, at)
    if isinstance(shape, list):
        if not isinstance(value, list):
            return _wrong(at, "a list")
        return next((why for index, item in enumerate(value) if (why := fault(item, shape[0], f"{at}[{index}]"))), "")
    return "" if _fits(value, shape) else _wrong(at, NAMES[shape])


def _fault_of_mapping(value: Any, shape: Mapping[Any, Any], at: str) -> str:
    if not isinstance(value, dict):
        return _wrong(at, "a mapping")
    if ... in shape:
        return next((why for key, item in value.items() if (why := fault(item, shape[...], _inside(at, key)))), "")
    for name, part in shape.items():
        key = name.removesuffix("?")
        if key in value:
            if why := fault(value[key], part, _inside(at, key)):
                return why
        elif key == name:
            return f"`{_inside(at, key)}` is missing"
    return ""


def _fits(value: Any, kind: Any) -> bool:
    if kind is None or isinstance(value, bool):
        return value is kind or (kind is bool and isinstance(value, bool))
    if kind is float:
        return isinstance(value, int | float) and -MOST < value < MOST
    if kind is Real:
        return isinstance(value, int | float) and abs(value) <= sys.float_info.max
    if kind is int:
        return isinstance(value, int) and -MOST < value < MOST
    return isinstance(value, kind)


def _inside(at: str, key: str) -> str:
    key = key if len(key) <= 64 else f"{key[:64]}…"
    return f"{at}.{key}" if at else key


def _wrong(at: str, expected: str) -> str:
    return f"`{at}` is not {expected}" if at else f"it is not {expected}"
