"""Code of the user's own that a recipe names, `path/to/file.py:NAME`. Jobs run the copy that the submission made.

A relative path begins in the folder of the recipe that names it.
"""

import importlib.util
import math
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from diagcot.jobs.environment import code, variables
from diagcot.jobs.errors import OwnCodeError, UserError

NAME = re.compile(r"(.+\.py):([A-Za-z_]\w*)")
"""How a recipe names a piece of the user's own: `path/to/file.py:NAME`."""
TIMEOUT_S = 120
FAILED = 3
"""Exit code of a trial after a message for the user."""


def absolute(name: str, folder: Path | None = None) -> str:
    """`file.py:NAME` with a whole path that begins in `folder` (default: the current one); any other text as it is."""
    found = NAME.fullmatch(name)
    return f"{((folder or Path.cwd()) / found[1]).resolve()}:{found[2]}" if found else name


def anchored(value: Any, folder: Path, keys: Sequence[str] = (), key: str = "") -> Any:
    """Parts of a recipe with whole paths, which begin in `folder`, in every `file.py:NAME` and in the paths below `keys`.

    key: what `value` stands below. A value below one of `keys` is a path if it has a slash.
    """
    if isinstance(value, Mapping):
        return {anchored(name, folder): anchored(part, folder, keys, str(name)) for name, part in value.items()}
    if isinstance(value, list):
        return [anchored(part, folder, keys) for part in value]
    if not isinstance(value, str):
        return value
    return str((folder / value).resolve()) if key in keys and "/" in value else absolute(value, folder)


def label(name: str) -> str:
    """What logs and tables call a piece: `file.NAME`; any other text as it is."""
    found = NAME.fullmatch(name)
    return f"{Path(found[1]).stem}.{found[2]}" if found else name


def module(file: Path, what: str) -> ModuleType:
    """Import a file that holds a `what`, such as a reward. Raises OwnCodeError if that fails."""
    copied = Path(os.environ[code.VARIABLE]) / file.name if code.VARIABLE in os.environ else file
    file = copied if copied.is_file() else file  # in a job: as it was at submission
    spec = importlib.util.spec_from_file_location(f"own_{file.stem}", file) if file.is_file() else None
    if spec is None or spec.loader is None:
        raise OwnCodeError(f"there is no Python file {file} for the {what}: name it path/to/file.py:function")
    found = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(found)
    except (Exception, SystemExit) as error:  # whatever the file does
        raise OwnCodeError(f"the {what} file {file} cannot be loaded ({described(error, file)}): fix it") from None
    return found


def described(error: BaseException, file: Path) -> str:
    """What a file of the user's own has raised, and where. A message may hold a report: only those about code are repeated."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error}"
    said = f"{type(error).__name__}: {error}" if isinstance(error, ImportError) else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    place = next((frame for frame in reversed(frames) if Path(frame.filename).name == file.name), frames[-1])
    return f"{said}, {place.filename}:{place.lineno}"


def function(held: ModuleType, name: str, what: str) -> Callable[..., Any]:
    """The function of `file.py:NAME` in its module. Raises OwnCodeError if there is none."""
    file, _, attribute = name.rpartition(":")
    found = getattr(held, attribute, None)
    if not callable(found):
        raise OwnCodeError(
            f"the {what} file {file} has no function {attribute!r}: name one that it has, as path/to/file.py:function"
        )
    called: Callable[..., Any] = found
    return called


def scores(what: str, name: str, count: int, call: Callable[[], Iterable[Any]]) -> list[dict[str, float]]:
    """What a function of the user's own gives `count` answers: of each a finite `overall`, and further numbers by name.

    call: calls it; a row that it returns is a number, the overall one, or a mapping of names to numbers, whose values None are
    left out. Raises OwnCodeError if the function raises an error, or does not give each answer a finite number.
    """
    try:
        rows = [row if isinstance(row, Mapping) else {"overall": row} for row in call()]
    except (Exception, SystemExit) as error:  # whatever the function does
        raise OwnCodeError(
            f"the {what} {name} raised {described(error, Path(name.rpartition(':')[0]))}: fix it"
        ) from None
    if len(rows) != count:
        raise OwnCodeError(
            f"the {what} {name} returned {len(rows)} numbers for {count} answers: it must return one for each, in order"
        )
    try:
        found = [{key: float(value) for key, value in row.items() if value is not None} for row in rows]
    except (TypeError, ValueError):
        raise OwnCodeError(
            f"the {what} {name} returned what is no number: it must return one for each answer"
        ) from None
    if not all("overall" in row and all(map(math.isfinite, row.values())) for row in found):
        raise OwnCodeError(
            f"the {what} {name} returned a number that is missing or not finite: give each answer one, no NaN and no infinity"
        )
    return found


def check(trial_module: str, what: str, name: str, *arguments: str) -> None:
    """Import a file and call its function once, in a process of its own: `python -m TRIAL_MODULE name arguments`.

    A file that cannot be imported, a function that raises an error, and one that never returns are known when a recipe is
    planned, and not when servers and trainers have started. Raises OwnCodeError if that fails or takes over two minutes.
    """
    file = Path(name.rpartition(":")[0])
    written = file.stat().st_mtime_ns if file.exists() else 0
    if said := _tried(trial_module, what, (name, *arguments), written):
        raise OwnCodeError(said)


@cache
def _tried(trial_module: str, what: str, arguments: Iterable[str], written: int) -> str:
    """What went wrong with the file of that time; empty if nothing did."""
    name, *_ = arguments
    environment = variables.child() | {"PYTHONPATH": str(code.PACKAGE.parent)}
    try:
        done = subprocess.run(
            [sys.executable, "-m", trial_module, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            timeout=TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return (
            f"the {what} {name} gave no value of one sample in {TIMEOUT_S} s: fix it, or what its file does on import"
        )
    if done.returncode == 0:
        return ""
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return last if done.returncode == FAILED else f"the {what} {name} ends the process that calls it ({last}): fix it"


def trial(call: Callable[[], object]) -> int:
    """Make the call that `check` started this process for. Returns 0, or FAILED after one line on stderr."""
    try:
        call()
    except UserError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return FAILED
    return 0
