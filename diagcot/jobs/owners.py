"""Who owns a run, and whether a file can be trusted: what other users wrote is shown, but never executed."""

import os
import pwd
import stat
from pathlib import Path

from diagcot.jobs.errors import UserError


def other_owner(run_dir: Path) -> str:
    """The name of the other user who owns a run's folder or its `cluster.yaml`; empty if both are ours."""
    for path in (run_dir, run_dir / "cluster.yaml"):
        if path.exists() and (uid := path.stat().st_uid) != os.geteuid():
            return _name(uid)
    return ""


def require_own(run_dir: Path) -> None:
    """Raise UserError if the run belongs to another user: changing it would execute what they wrote there."""
    if owner := other_owner(run_dir):
        raise UserError(f"run {run_dir.name} belongs to {owner}, and only {owner} may change it: use your own run")


def distrust(path: Path) -> str:
    """Why `path` cannot be trusted; empty if it can.

    Anybody can create files in a folder that everybody may write to, such as /tmp. Everything below such a folder must
    belong to us or to root, and nobody else may have the right to write to it.
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
        if found.st_mode & others and not found.st_mode & stat.S_ISVTX:  # sticky: only its owner changes a file
            return f"{part} can be changed by other users"
        public = public or bool(found.st_mode & stat.S_IWOTH)
    return ""


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
