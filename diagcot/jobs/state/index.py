"""The runs that a user has started, wherever they are: a line of JSON for each in the user's state folder.

The file is `diagcot/runs` in `$XDG_STATE_HOME`, by default `~/.local/state`. It only helps to find runs: a run that is not
in it is found by the folder that holds it (`LOGS=`).
"""

import contextlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from diagcot.jobs.state import reading
from diagcot.jobs.state.files import append_line


@dataclass(frozen=True)
class Entry:
    """A run's folder, and the folder that it was submitted from."""

    run_dir: Path
    submitted_from: Path


def path() -> Path | None:
    """The file; None for a user who has no home folder. A relative path counts as none."""
    base = os.environ.get("XDG_STATE_HOME", "")
    with contextlib.suppress(RuntimeError):  # no HOME, and a user id without a name
        folder = Path(base) if Path(base).is_absolute() else Path.home() / ".local" / "state"
        return folder / "diagcot" / "runs" if folder.is_absolute() else None
    return None


def add(run_dir: Path) -> None:
    """Remember a run. Where the state folder cannot be written, standard error says how the run is found."""
    entry, file = Entry(run_dir.absolute(), Path.cwd()), path()
    if file is not None and entry in entries():
        return
    try:
        if file is None:
            raise OSError("there is no home folder")
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        append_line(file, json.dumps({"run": str(entry.run_dir), "from": str(entry.submitted_from)}))
    except OSError as error:
        why = error.strerror or error
        print(
            f"the list of your runs was not written ({why}): other folders find this run by LOGS={run_dir.parent}",
            file=sys.stderr,
        )


def entries() -> list[Entry]:
    """The runs that still exist, in the order of their first submission."""
    file, found = path(), []
    with contextlib.suppress(OSError):
        for line in _lines(file) if file else ():
            with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                row = json.loads(line)
                found.append(Entry(Path(row["run"]), Path(row["from"])))
    return [entry for entry in dict.fromkeys(found) if (entry.run_dir / "run.json").exists()]


def _lines(file: Path) -> list[bytes]:
    with reading.File(file) as content:
        return content.read().splitlines()
