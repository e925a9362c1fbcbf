"""The environments of Python that a run's jobs use: the file `environments` of its folder.

`make env` builds each lock's environment in a folder of its own, `.venv-<digest>`, and sets the link `.venv` to it. Jobs
name the folder, so they keep their environment when the link changes.
"""

import sys
from pathlib import Path

from diagcot.jobs.state import reading
from diagcot.jobs.state.files import append_line

FILE = "environments"  # of a run


def interpreter() -> str:
    """The interpreter that jobs run: this one, named by its folder and not by the link `.venv`."""
    prefix, program = Path(sys.prefix), Path(sys.executable)
    if prefix.is_symlink() and program.is_relative_to(prefix):
        return str(prefix.resolve() / program.relative_to(prefix))
    return sys.executable


def record(run_dir: Path) -> None:
    """Write down that jobs of this run use the environment of this process."""
    own = str(Path(sys.prefix).resolve())
    if own not in named(run_dir):
        append_line(run_dir / FILE, own)


def named(run_dir: Path) -> list[str]:
    """The folders of the environments that jobs of this run use."""
    path = run_dir / FILE
    try:
        return reading.read_bytes(path).decode(errors="replace").splitlines()
    except OSError:
        return []
