"""The code that jobs run: a snapshot made at submission, so that a job that starts days later runs what was submitted."""

import hashlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from diagcot.jobs.errors import UserError
from diagcot.jobs.state.files import named, remove

VARIABLE = "DIAGCOT_CODE"
"""Set in every process of a run: the snapshot that it runs, a folder that is named by its digest."""
PACKAGE = Path(__file__).resolve().parents[2]
COPIERS = 8
GIT_S = 10  # seconds that an answer of Git may take
FOLDER = "code"  # of a run: its snapshots


def sources(roots: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """(file, its path inside the snapshot) of every file of these packages and modules, caches and hidden files left out."""
    for root in roots:
        if root.is_file():
            yield root, Path(root.name)
        for walked, folders, names in os.walk(root):
            folder = Path(walked)
            inside = folder.relative_to(root.parent)
            folders[:] = sorted(name for name in folders if name != "__pycache__")
            # Python writes to a name with more behind `.pyc` first.
            wanted = (name for name in sorted(names) if not name.startswith(".") and ".pyc" not in name)
            yield from ((folder / name, inside / name) for name in wanted)


def digest(roots: Sequence[Path]) -> str:
    """A short sha256 of the names and contents of these packages and modules, in whatever order they are given."""
    total = hashlib.sha256()
    for path, name in sorted(sources(roots), key=lambda pair: str(pair[1])):
        total.update(f"{name}\n".encode() + path.read_bytes())
    return total.hexdigest()[:12]


def commit(folder: Path) -> str:
    """The commit that is checked out in a folder, and whether tracked files differ from it; empty where Git does not say."""
    answers = []
    for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False, timeout=GIT_S
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        if done.returncode:
            return ""
        answers.append(done.stdout.strip())
    return f"{answers[0]} with changes" if answers[1] else answers[0]


def require_own() -> None:
    """Raise UserError unless this process imported the code of its run, as it was when the run was submitted.

    Every process of a run calls this first. Outside a run there is nothing to compare with.
    """
    snapshot = Path(os.environ.get(VARIABLE, PACKAGE.parent)).resolve()
    if PACKAGE.parent != snapshot:
        raise UserError(f"a process of this run has imported {PACKAGE} instead of the run's code in {snapshot}")
    if snapshot.parent.name == FOLDER and (found := digest(sorted(snapshot.iterdir()))) != snapshot.name:
        raise UserError(
            f"the run's code in {snapshot} was changed after submission (its digest is now {found}): submit the run under"
            " another name (RUN=…), or `make retry RUN=… STAGE=… CODE=new`"
        )


def _copy(pairs: Sequence[tuple[Path, Path]]) -> None:
    for path, copy in pairs:
        data = path.read_bytes()
        with named(copy):
            copy.write_bytes(data)


def snapshot(roots: Sequence[Path], target: Path) -> None:
    """Copy the code to `target`, unless it exists."""
    if target.exists():
        return
    staged = target.with_name(f".{target.name}.{os.getpid()}")
    copies = [(path, staged / name) for path, name in sources(roots)]
    try:
        for folder in {copy.parent for _, copy in copies}:
            folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(COPIERS) as pool:  # a file server answers many requests in the time of one
            for _ in pool.map(_copy, (copies[first::COPIERS] for first in range(COPIERS))):
                pass
        staged.rename(target)
    except OSError:
        if not target.exists():  # else another launcher was first; its copy has the same digest
            raise
    finally:
        remove(staged, target.parent)
