"""Whose a run is, and whether a file can be trusted: what other users wrote is shown, but never run or obeyed."""

import os
import pwd
import stat
from pathlib import Path

from diagcot.jobs.errors import UserError


def other_owner(run_dir: Path) -> str:
    """The name of the other user to whom a run's folder or its `cluster.yaml` belongs; empty if both are ours."""
    for path in (run_dir, run_dir / "cluster.yaml"):
        if path.exists() and (uid := path.stat().st_uid) != os.geteuid():
            return _name(uid)
    return ""


def require_own(run_dir: Path) -> None:
    """Raise UserError if the run belongs to another user: to change it would run what they wrote there."""
    if owner := other_owner(run_dir):
        raise UserError(f"run {run_dir.name} belongs to {owner}, who alone may change it: use a run of your own")


def distrust(path: Path) -> str:
    """Why `path` cannot be trusted, or nothing.

    In a folder that everybody may write to, such as /tmp, anybody may have put it there. All below such a folder has to
    belong to us or to root, and no one else may write to it.
    """
    return _distrust(path.absolute()) or _distrust(path.resolve())


def _distrust(path: Path) -> str:
    public = False
    for part in [*reversed(path.parents), path]:
        try:
            link, found = part.lstat(), part.stat()
        except FileNotFoundError:
            return ""
        except OSError as error:
            return f"{part} cannot be read ({error.strerror})"
        for owner in (link.st_uid, found.st_uid) if public else ():
            if owner not in (0, os.geteuid()):
                return f"{part} belongs to {_name(owner)}"
        others = stat.S_IWGRP | stat.S_IWOTH if public else stat.S_IWOTH
        if found.st_mode & others and not found.st_mode & stat.S_ISVTX:  # in a sticky folder each owns what is theirs
            return f"{part} can be changed by other users"
        public = public or bool(found.st_mode & stat.S_IWOTH)
    return ""


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
