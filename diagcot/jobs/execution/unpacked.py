"""Puts the parts of an unpacked run in their places: all of them, or none.

Each part is made beside its place, on its file system, and gets there by a rename. One process at a time does that in a
folder: it holds a lease, which stays (`logs/.unpack.<n>.lease`). The run's own folder comes last. Until then a file in each
other part says which run it waits for, so what a killed process has left is known from what a run owns.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from diagcot.jobs.errors import UserError
from diagcot.jobs.execution import staging
from diagcot.jobs.lease import PATIENCE_S, lease
from diagcot.jobs.state import index, reading
from diagcot.jobs.state.files import private_folder

PLACES = {"shards": "shards", "models": "models", "run": "logs"}
"""Part of an archive -> the folder that it goes to; the run's own folder is the last."""
MARK = ".unpacked"
"""File in a part that is in its place while its run is not: the folder of that run."""
_STAGED = ".unpack."


def require_folders(into: Path) -> None:
    """Raise UserError if something other than a folder is where a folder belongs."""
    for path in (into, *(into / name for name in PLACES.values())):
        if os.path.lexists(path) and not path.is_dir():
            raise UserError(f"{path} is no folder: move it away, or unpack with --into another folder")


def publish(staged: Path, run: str, into: Path) -> Path:
    """Move the parts in `staged` to their places below `into`; returns the run's folder.

    Raises UserError, and changes nothing, if one of the places is taken.
    """
    targets = {part: into / folder / run for part, folder in PLACES.items()}
    sweep(into)
    _require_free(targets)
    beside = dict[str, Path]()
    with contextlib.ExitStack() as stack:
        for part in PLACES:
            if (staged / part).exists():
                root = targets[part].parent
                private_folder(root)
                beside[part] = stack.enter_context(staging.staged(root, _STAGED)) / part
                shutil.move(staged / part, beside[part])
                if part != "run":
                    (beside[part] / MARK).write_text(_awaited(targets["run"]), encoding="utf-8")
        with _alone(into, PATIENCE_S):
            _require_free(targets)
            _rename(beside, targets)
    for part in beside:
        (targets[part] / MARK).unlink(missing_ok=True)
    index.add(targets["run"])
    return targets["run"]


def _rename(beside: Mapping[str, Path], targets: Mapping[str, Path]) -> None:
    tried = list[str]()
    try:
        for part, source in beside.items():
            tried.append(part)
            source.rename(targets[part])
    except BaseException as error:
        for part in tried:
            if not beside[part].exists():
                targets[part].rename(beside[part])
        if isinstance(error, OSError) and error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise _taken(targets[tried[-1]]) from error
        raise


def sweep(into: Path) -> list[Path]:
    """Remove what killed processes have left below `into`; returns it.

    That is what they have staged, and parts of a run that wait for it while no process unpacks here. What cannot be removed
    now stays.
    """
    gone = [path for folder in PLACES.values() for path in staging.sweep(into / folder)]
    if not any(_marked(into)):
        return gone
    with contextlib.suppress(OSError, UserError), _alone(into, 0):
        for part in list(_marked(into)):
            if os.path.lexists(into / "logs" / part.name):  # it came after all
                (part / MARK).unlink(missing_ok=True)
                continue
            with staging.staged(part.parent, _STAGED) as folder:  # a removal that is cut off leaves nothing half
                part.rename(folder / part.name)
            gone.append(part)
    return gone


def _marked(into: Path) -> Iterator[Path]:
    """Parts of this user that wait for a run in `into`/logs, or that have the mark still."""
    for folder in ("shards", "models"):
        for mark in (into / folder).glob(f"*/{MARK}"):
            with contextlib.suppress(OSError, ValueError):
                own = mark.parent.lstat().st_uid == mark.lstat().st_uid == os.geteuid()
                awaited = _awaited(into / "logs" / mark.parent.name)
                if own and not mark.parent.is_symlink() and reading.read_text(mark) == awaited:
                    yield mark.parent


def _awaited(run_dir: Path) -> str:
    return str(run_dir.parent.resolve() / run_dir.name)


def _alone(into: Path, patience_s: float) -> contextlib.AbstractContextManager[None]:
    return lease(into / "logs" / ".unpack", patience_s, f"unpacks into {into}")


def _require_free(targets: Mapping[str, Path]) -> None:
    if taken := [path for path in targets.values() if os.path.lexists(path)]:
        raise _taken(taken[0])


def _taken(path: Path) -> UserError:
    what = " (a link to nothing)" if path.is_symlink() and not path.exists() else ""
    return UserError(f"{path}{what} exists: unpack with --into another folder")
