"""Who owns a run and where it is: what a run may change, and what of a file can be trusted.

What other users wrote is shown, but never executed. A run knows its place by where it is read, not by the paths that its
files were written with: a run that was moved goes on in its new place, and so do the folders of its products that were
moved with it. A copy of a run would work on the products of the original, so it can be looked at, and nothing else.
"""

import functools
import itertools
import json
import os
import pwd
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diagcot.jobs.errors import UserError
from diagcot.jobs.names import require_inside


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


def require_own_folder(folder: Path) -> None:
    """Raise UserError if a folder is there that another user has made: what lies in it would be loaded, or removed."""
    if folder.exists() and (uid := folder.stat().st_uid) != os.geteuid():
        raise UserError(f"{folder} belongs to {_name(uid)}, so nothing is read, written or removed there: remove it")


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


def moves(stage_dir: Path) -> Mapping[Path, Path]:
    """Folder as a stage's files name it -> where it is now; empty for a run in its place, and for one without a plan."""
    row = _stored(stage_dir)
    return (
        _moves(stage_dir.absolute(), Path(row["stage_dir"]), Path(row["shards_root"]), Path(row["workspace"]))
        if row
        else {}
    )


def now(stage_dir: Path, stored: str) -> str:
    """Where a path is now that a file of the stage names."""
    for before, after in moves(stage_dir).items():
        if (path := Path(stored)) == before or before in path.parents:
            return str(after / path.relative_to(before))
    return stored


def require_place(stage_dir: Path) -> None:
    """Raise UserError if the stage is part of a copy of a run, or of a run whose folder has another name."""
    row = _stored(stage_dir)
    stored, here = Path(row["stage_dir"]) if row else stage_dir, stage_dir.absolute()
    if _same(stored, here):
        return
    if (stored / "plan.json").exists():
        raise UserError(
            f"{here.parent} is a copy of the run in {stored.parent}, to which its products belong: use that one, or submit"
            " under another RUN=name"
        )
    if here.parts[-2:] != stored.parts[-2:]:
        raise UserError(
            f"{here} holds stage {stored.name} of run {stored.parent.name}: give the folders these names again, because"
            " jobs and products are named so"
        )


def require_run(run_dir: Path) -> None:
    """Raise UserError as `require_place` for any stage of the run."""
    for plan in sorted(run_dir.glob("*/plan.json")):
        require_place(plan.parent)


def require_product(stage_dir: Path, path: Path) -> None:
    """Raise UserError unless a file that is written, replaced or removed for the stage lies in the stage's own folders."""
    if row := _stored(stage_dir):
        require_place(stage_dir)
        roots = [Path(now(stage_dir, row[name])) for name in ("output", "workspace")]
        inside = path.parent.resolve() / path.name  # a link itself, not what it leads to
        if not any(root.resolve() in inside.parents for root in roots):
            require_inside(inside, roots[0])


def _stored(stage_dir: Path) -> dict[str, Any]:
    try:
        found = (stage_dir / "plan.json").stat()
    except OSError:
        return {}
    return _read(stage_dir, found.st_ino, found.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _read(stage_dir: Path, inode: int, changed: int) -> dict[str, Any]:
    try:
        row = json.loads((stage_dir / "plan.json").read_bytes())
        return {name: row[name] for name in ("stage_dir", "output", "workspace", "shards_root")}
    except (ValueError, KeyError, TypeError):  # whoever reads the plan itself says that it is damaged
        return {}


def _same(stored: Path, here: Path) -> bool:
    if stored == here:
        return True
    try:
        return stored.samefile(here)  # by another name, such as a link
    except OSError:
        return False


@functools.lru_cache(maxsize=256)
def _moves(here: Path, stored: Path, shards: Path, workspace: Path) -> dict[Path, Path]:
    if _same(stored, here) or (stored / "plan.json").exists() or here.parts[-2:] != stored.parts[-2:]:
        return {}
    found = {stored.parent: here.parent}
    ends = zip(stored.parts[::-1], here.parts[::-1], strict=False)
    common = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], ends))
    before, after = Path(*stored.parts[:-common]), Path(*here.parts[:-common])
    for root in (shards, workspace.parents[2]):  # <models>/<run>/.work/<stage>
        if before in root.parents and not root.exists() and (moved := after / root.relative_to(before)).exists():
            found[root] = moved
    return found
