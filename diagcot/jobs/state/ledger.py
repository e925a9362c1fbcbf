"""Which units are done. Files decide; nothing is keyed by position.

A unit is done when `done/<key>.json` exists. Publishing has two steps. The manifest is created exclusively and names
every output with its digest and the staged path that it was written to: this is the commit. Then each staged path is
renamed to its final name. Whoever finds a manifest whose renames were interrupted completes them (`settle`), so a kill
between the two loses nothing, and of two executions of a unit only the one that created the manifest publishes.

Screens count manifests by their names alone, because there may be millions. Whoever ends a stage or submits it again reads
them, and reopens a unit whose manifest is damaged.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from diagcot.jobs import owners
from diagcot.jobs.state import documents
from diagcot.jobs.state.files import create_exclusively, digest, fsync_path, fsync_tree, remove, write_json
from diagcot.jobs.state.records import files_of

SETTLED_S = 2.0  # a folder that has not changed for so long has no entry that its time stamp does not reflect


def done_keys(stage_dir: Path) -> set[str]:
    """Keys of all published units, by one listing."""
    try:
        return {name[:-5] for name in os.listdir(stage_dir / "done") if name.endswith(".json") and name[0] != "."}
    except FileNotFoundError:
        return set()


_listings: dict[Path, tuple[int, frozenset[bytes]]] = {}


def done_manifests(stage_dir: Path) -> frozenset[bytes]:
    """File names of all manifests of a stage, by one listing, which is reused while the folder has not changed."""
    folder = stage_dir / "done"
    try:
        changed = folder.stat().st_mtime_ns
        if stage_dir in _listings and _listings[stage_dir][0] == changed:
            return _listings[stage_dir][1]
        names = _complete(os.listdir(os.fsencode(folder)))
    except FileNotFoundError:
        return frozenset()
    _listings.pop(stage_dir, None)
    if time.time() - changed / 1e9 > SETTLED_S:
        _listings[stage_dir] = changed, names
    return names


def _complete(names: list[bytes]) -> frozenset[bytes]:
    """Those that are manifests, and not files that are being written."""
    together = b"\n".join([b"", *names, b""])  # a look at each of a million would take longer than all else
    if together.count(b".json\n") < len(names) or b"\n." in together:
        names = [name for name in names if name.endswith(b".json") and not name.startswith(b".")]
    return frozenset(names)


def written_at(stage_dir: Path, manifests: Iterable[bytes]) -> Iterator[float]:
    """When these manifests of a stage were written, in seconds since the epoch."""
    folder = os.fsencode(stage_dir / "done") + b"/"
    for name in manifests:
        with contextlib.suppress(FileNotFoundError):
            yield os.stat(folder + name).st_mtime  # noqa: PTH116  (a Path for each of thousands is what takes long)


def manifest(stage_dir: Path, key: str) -> dict[str, Any] | None:
    """The manifest of a unit, with the paths of its outputs as they are now; None if it is not done.

    Raises UserError if it is damaged.
    """
    try:
        row = documents.read(stage_dir / "done" / f"{key}.json", documents.MANIFEST)
    except FileNotFoundError:
        return None
    if owners.moves(stage_dir):
        row["outputs"] = {
            owners.now(stage_dir, name): about | {"staged": owners.now(stage_dir, about["staged"])}
            for name, about in row["outputs"].items()
        }
    return row


def publish(
    stage_dir: Path, key: str, outputs: Mapping[Path, Path], counts: Mapping[str, Any], about: Mapping[str, Any]
) -> bool:
    """Publish `outputs` (final path -> staged path) and mark unit `key` done.

    Returns False, and drops what was staged, if another execution has published the unit already. Raises UserError, and
    publishes nothing, if an output is not in the stage's own folders.
    """
    for path in (*outputs, *outputs.values()):
        owners.require_product(stage_dir, path)
    folder = stage_dir / "done"
    if (folder / f"{key}.json").exists():  # a look before the expensive part; who is first is decided below
        _drop(stage_dir, outputs.values())
        return False
    rows = {}
    for final, staged in outputs.items():
        fsync_tree(staged)
        fsync_path(staged.parent)
        rows[str(final)] = {"staged": str(staged), "sha256": digest(staged)}
    text = json.dumps({"unit": key, "outputs": rows, "counts": dict(counts), "time": time.time(), **about}, indent=1)
    folder.mkdir(parents=True, exist_ok=True)
    won = create_exclusively(folder / f"{key}.json", text + "\n")
    if won:
        settle(stage_dir, key)
    else:
        _drop(stage_dir, outputs.values())
    return won


def _drop(stage_dir: Path, outputs: Iterable[Path]) -> None:
    """Remove outputs of the stage. Raises UserError, before anything is removed, if one is not in the stage's own folders."""
    roots = {path: owners.require_product(stage_dir, path) for path in outputs}
    for path, root in roots.items():
        remove(path, root)


def settle(stage_dir: Path, key: str) -> list[Path]:
    """Complete the renames of a published unit; returns the outputs that are still missing, or its damaged manifest."""
    try:
        published = manifest(stage_dir, key)
    except documents.DamagedFile:
        return [stage_dir / "done" / f"{key}.json"]
    missing = []
    for name, row in (published or {"outputs": {}})["outputs"].items():
        final, staged = Path(name), Path(row["staged"])
        if staged.exists():
            owners.require_product(stage_dir, staged)
            root = owners.require_product(stage_dir, final)
            if final.is_dir():  # a rename cannot replace a folder: the product of an earlier plan is removed
                remove(final, root, strict=True)
            try:
                os.replace(staged, final)
                fsync_path(final.parent)
            except FileNotFoundError:
                pass  # another process has settled it in the meantime
        if not final.exists():
            missing.append(final)
    return missing


def withdraw(stage_dir: Path, key: str) -> None:
    """Reopen a unit that was done, so that it runs again; its outputs are removed.

    A damaged manifest, which does not say what they are, is kept as `.<key>.json.damaged`, and they are replaced when the
    unit is published again. Raises UserError, before anything is removed, if an output is not in the stage's own folders.
    """
    mark = stage_dir / "done" / f"{key}.json"
    try:
        paths = [Path(name) for name in (manifest(stage_dir, key) or {"outputs": {}})["outputs"]]
    except documents.DamagedFile:
        aside = mark.with_name(f".{mark.name}.damaged")
        remove(aside, stage_dir)
        mark.rename(aside)
        paths = []
    _drop(stage_dir, paths)
    mark.unlink(missing_ok=True)
    for path in files_of(stage_dir, key):
        path.unlink()


def supersede(stage_dir: Path, key: str, by: str) -> None:
    """Mark a unit as done that another one (`by`) replaces: it owns no output, and no execution of it publishes any more.

    What it had published stays in place until `by` replaces it, and in its manifest under `was`. Safe to repeat. A damaged
    manifest is kept as `withdraw` keeps it.
    """
    folder = stage_dir / "done"
    folder.mkdir(parents=True, exist_ok=True)
    empty = {"unit": key, "outputs": {}, "counts": {}, "time": time.time(), "superseded": by}
    mark = folder / f"{key}.json"
    if create_exclusively(mark, json.dumps(empty, indent=1) + "\n"):
        return
    if mark in settle(stage_dir, key):
        withdraw(stage_dir, key)
        create_exclusively(mark, json.dumps(empty, indent=1) + "\n")
    earlier = manifest(stage_dir, key) or {}
    if "superseded" not in earlier:
        was = {name: earlier[name] for name in ("outputs", "counts")}
        write_json(mark, earlier | {"outputs": {}, "counts": {}, "superseded": by, "was": was})
