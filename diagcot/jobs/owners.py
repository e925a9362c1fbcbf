"""Who owns a run and where it is: what a run may change, and what of a file can be trusted.

What other users wrote is shown, but never executed. A run knows its place by where it is read, not by the paths that its
files were written with: a run that was moved goes on in its new place, and so do the folders of its products that were
moved with it. A copy of a run would work on the products of the original, so it can be looked at, and nothing else. A folder
keeps its inode when it is moved within a file system, and a copy has another one: by it the two are told apart where the
original is not found.
"""

import functools
import itertools
import os
import pwd
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diagcot.jobs.errors import UserError
from diagcot.jobs.state import documents
from diagcot.jobs.state.files import require_inside

PLACES = "places.json"
"""File of a run: the places where it was submitted or retried, each with the inode of the run's folder and with what `moved`
was there. Its other files name the folders of the place where they were written, and a copy of it is known by them."""


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
    earlier = _places(stage_dir.parent)
    if not earlier or isinstance(earlier, str) or not (row := _stored(stage_dir)) or _is_copy(stage_dir):
        return found
    own = (Path(row["stage_dir"]).parent, *_roots(row))
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
    return _moves(stage_dir.absolute(), Path(row["stage_dir"]), *_roots(row))


def places(run_dir: Path) -> list[dict[str, Any]]:
    """Where a run has gone on: `folder` of the run, its `inode`, and `moves`, what `moved` was there for its stages.

    Raises UserError if the file is damaged.
    """
    rows = _places(run_dir)
    if isinstance(rows, str):
        raise documents.DamagedFile(rows)
    return rows


def place(run_dir: Path) -> dict[str, Any]:
    """The row of `places` for the place where a run is."""
    stages = [plan.parent for plan in run_dir.glob("*/plan.json")]
    here = {str(before): str(now) for stage_dir in stages for before, now in moved(stage_dir).items()}
    return {"folder": str(run_dir.absolute()), "moves": here, "inode": str(run_dir.stat().st_ino)}


def _places(run_dir: Path) -> list[dict[str, Any]] | str:
    """As `places`; what is wrong with the file if it is damaged, so that what only looks goes on."""
    try:
        found = (run_dir / PLACES).stat()
    except OSError:
        return []
    return _read_places(run_dir, found.st_ino, found.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _read_places(run_dir: Path, inode: int, changed: int) -> list[dict[str, Any]] | str:
    try:
        return documents.read_rows(run_dir / PLACES, documents.STAYS)
    except FileNotFoundError:
        return []
    except UserError as error:
        return str(error)


def now(stage_dir: Path, stored: str) -> str:
    """Where a path is now that a file of the stage names."""
    for before, after in moves(stage_dir).items():
        if (path := Path(stored)) == before or before in path.parents:
            return str(after / path.relative_to(before))
    return stored


def require_place(stage_dir: Path) -> None:
    """Raise UserError if the stage is part of a copy of a run, or of a run whose folder has another name.

    What may be a copy counts as one where it would work on products that it does not hold.
    """
    row, known = _stored(stage_dir), places(stage_dir.parent)
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
    found = moved(stage_dir)
    kept = [root for root in _roots(row) if root not in found and (root / stored.parent.name).exists()]
    if kept and not any(_is_at(place, here.parent) for place in known):
        raise UserError(
            f"{here.parent} may be a copy of run {stored.parent.name}, whose products in {kept[0]} would be changed. If it is"
            f" the run itself, moved from another file system, make a link where it was, `ln -s {here.parent}"
            f" {stored.parent}`, and use it there: LOGS={stored.parent.parent}"
        )


def _is_at(place: Mapping[str, Any], run_dir: Path) -> bool:
    """Whether a run that was in a place is what is now in `run_dir`."""
    return place.get("inode") == str(run_dir.stat().st_ino) or _same(Path(place["folder"]), run_dir)


def _roots(row: Mapping[str, Any]) -> tuple[Path, Path]:
    """The folders of shards and models, as a stage's plan names them."""
    return Path(row["shards_root"]), Path(row["workspace"]).parents[2]  # <models>/<run>/.work/<stage>


def _original(here: Path, stored: Path) -> Path | None:
    """The folder of the stage that `here` is a copy of: where it began, or where it was moved and went on; None if none."""
    if _same(stored, here):
        return None
    earlier = _places(here.parent)
    folders = [place["folder"] for place in earlier] if not isinstance(earlier, str) else []
    known = (stored, *(Path(folder) / here.name for folder in folders))
    return next((path for path in known if (path / "plan.json").exists() and not _same(path, here)), None)


def _is_copy(stage_dir: Path) -> bool:
    row = _stored(stage_dir)
    return bool(row) and _original(stage_dir.absolute(), Path(row["stage_dir"])) is not None


def require_run(run_dir: Path) -> None:
    """Raise UserError as `require_place` for any stage of the run."""
    for plan in sorted(run_dir.glob("*/plan.json")):
        require_place(plan.parent)


def require_product(stage_dir: Path, path: Path) -> Path:
    """The stage's own folder, of its product or its work, that a file lies in that is written, replaced or removed for it.

    Raises UserError if the file lies elsewhere, or if the stage's plan, which names these folders, is damaged. Where there
    is no plan (`diagcot.jobs.testing`), any folder will do.
    """
    if not (row := _stored(stage_dir) or _read_again(stage_dir / "plan.json")):
        return path.parent
    require_place(stage_dir)
    roots = [Path(now(stage_dir, row[name])) for name in ("output", "workspace")]
    inside = path.parent.resolve() / path.name  # a link itself, not what it leads to
    root = next((root for root in roots if root.resolve() in inside.parents), roots[0])
    require_inside(inside, root)
    return root


def _stored(stage_dir: Path) -> dict[str, Any]:
    try:
        found = (stage_dir / "plan.json").stat()
    except OSError:
        return {}
    return _read(stage_dir, found.st_ino, found.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _read(stage_dir: Path, inode: int, changed: int) -> dict[str, Any]:
    row = documents.find(stage_dir / "plan.json", documents.PATHS)  # whoever reads the plan says that it is damaged
    return row if row and not documents.fault_of_paths(row) else {}


def _read_again(plan: Path) -> dict[str, Any]:
    """The content of a plan that `_stored` could not read; empty if there is none. Raises UserError if it is damaged."""
    try:
        row = documents.read(plan, documents.PATHS)
    except FileNotFoundError:
        return {}
    if why := documents.fault_of_paths(row):
        raise documents.damaged(plan, documents.PATHS, why)
    return row


def _same(stored: Path, here: Path) -> bool:
    if stored == here:
        return True
    try:
        return stored.samefile(here)  # by another name, such as a link
    except (OSError, ValueError):  # ValueError: a name with the character 0
        return False


@functools.lru_cache(maxsize=256)
def _moves(here: Path, stored: Path, shards: Path, models: Path) -> dict[Path, Path]:
    if _same(stored, here) or here.parts[-2:] != stored.parts[-2:]:
        return {}
    found = {stored.parent: here.parent}
    ends = zip(stored.parts[::-1], here.parts[::-1], strict=False)
    common = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], ends))
    before, after = Path(*stored.parts[:-common]), Path(*here.parts[:-common])
    for root in (shards, models):
        if before in root.parents and not root.exists() and (moved := after / root.relative_to(before)).exists():
            found[root] = moved
    return found
