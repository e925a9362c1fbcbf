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
from diagcot.jobs.state.files import require_inside

PLACES = "places.json"
"""File of a run that was moved: the places where it went on, each with what `moves` was there. Its other files name the folders
of the place where they were written, and a copy of it is known by them."""


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
    """Folder as a stage's files name it -> where it is now; empty for a run that was never moved, and for one without a plan."""
    found = moved(stage_dir)
    if not (earlier := places(stage_dir.parent)) or not (row := _stored(stage_dir)) or _is_copy(stage_dir):
        return found
    own = (Path(row["stage_dir"]).parent, Path(row["shards_root"]), Path(row["workspace"]).parents[2])
    now = {folder: found.get(folder, folder) for folder in own}
    same = [{Path(before), Path(after)} for place in earlier for before, after in place["moves"].items()]
    while known := next((pair for pair in same if len(pair & now.keys()) == 1), None):
        (one,), (other,) = known & now.keys(), known - now.keys()
        now[other] = now[one]
    return {folder: here for folder, here in now.items() if folder != here}


def moved(stage_dir: Path) -> Mapping[Path, Path]:
    """Folder as the stage's plan names it -> where it is now; empty for a run in the place where it began."""
    row = _stored(stage_dir)
    if not row or _is_copy(stage_dir):
        return {}
    return _moves(stage_dir.absolute(), Path(row["stage_dir"]), Path(row["shards_root"]), Path(row["workspace"]))


def places(run_dir: Path) -> list[dict[str, Any]]:
    """Where a run that was moved has gone on: `folder` of the run, and `moves`, what `moved` was there for its stages."""
    try:
        found = (run_dir / PLACES).stat()
    except OSError:
        return []
    return _read_places(run_dir, found.st_ino, found.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _read_places(run_dir: Path, inode: int, changed: int) -> list[dict[str, Any]]:
    try:
        return [
            {name: row[name] for name in ("folder", "moves")} for row in json.loads((run_dir / PLACES).read_bytes())
        ]
    except (ValueError, KeyError, TypeError):
        return []


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
    if original := _original(here, stored):
        raise UserError(
            f"{here.parent} is a copy of the run in {original.parent}, to which its products belong: use that one, or submit"
            " under another RUN=name"
        )
    if here.parts[-2:] != stored.parts[-2:]:
        raise UserError(
            f"{here} holds stage {stored.name} of run {stored.parent.name}: give the folders these names again, because"
            " jobs and products are named so"
        )


def _original(here: Path, stored: Path) -> Path | None:
    """The folder of the stage that `here` is a copy of: where it began, or where it was moved and went on; None if none."""
    if _same(stored, here):
        return None
    known = (stored, *(Path(place["folder"]) / here.name for place in places(here.parent)))
    return next((path for path in known if (path / "plan.json").exists() and not _same(path, here)), None)


def _is_copy(stage_dir: Path) -> bool:
    row = _stored(stage_dir)
    return bool(row) and _original(stage_dir.absolute(), Path(row["stage_dir"])) is not None


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
    except (ValueError, KeyError, TypeError, RecursionError):  # whoever reads the plan itself says that it is damaged
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
    if _same(stored, here) or here.parts[-2:] != stored.parts[-2:]:
        return {}
    found = {stored.parent: here.parent}
    ends = zip(stored.parts[::-1], here.parts[::-1], strict=False)
    common = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], ends))
    before, after = Path(*stored.parts[:-common]), Path(*here.parts[:-common])
    for root in (shards, workspace.parents[2]):  # <models>/<run>/.work/<stage>
        if before in root.parents and not root.exists() and (moved := after / root.relative_to(before)).exists():
            found[root] = moved
    return found
