"""Checks shards against their checksums, and sets damaged shards aside so that only these are built again.

`diagcot shards verify FOLDER_OR_SHARD…`, `diagcot shards rebuild FOLDER_OR_SHARD…`.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from diagcot.data.errors import DataError
from diagcot.data.study import SPLITS
from diagcot.jobs import UserError, owners
from diagcot.jobs.errors import StorageError
from diagcot.jobs.state import documents, ledger
from diagcot.shards.reader import REBUILD, Shard, shard_paths


def faults(path: Path) -> Iterator[str]:
    """One line for each fault, with the shard and the record; nothing for an intact shard.

    A fault is a wrong checksum, or what the layout does not allow: nothing that another verb could not read is intact. Raises
    StorageError if the machine or its storage could not read the shard.
    """
    shard = Shard(path)
    try:
        shard.check_columns()
        count = len(shard)
        for i in range(count):
            shard.study(i)
        _ = shard.left_out(), shard.accounts, shard.sources
        odd = [row for row, split in enumerate(shard.texts("studies/split")) if split not in SPLITS]
        if odd:
            yield f"{path}: the column studies/split names no split in row {odd[0]}; {REBUILD}"
            return
    except DataError as error:
        yield str(error)
        return
    for row in range(shard.images):
        try:
            shard.check_image(row)
        except DataError as error:
            yield str(error)
    if count == 0:
        yield f"{path}: holds no study"


def check(paths: Sequence[Path]) -> int:
    """Print for every shard, or every shard in a folder, whether it is intact; 1 if one is not, or if there is none."""
    damaged = total = 0
    for path in paths:
        for shard in shard_paths(path) if path.is_dir() else [path]:
            try:
                lines = list(faults(shard))
            except StorageError as error:  # says nothing about the shard
                lines = [str(error)]
            print("\n".join(lines) or f"{shard}: intact, {len(Shard(shard))} studies, {Shard(shard).images} images")
            total, damaged = total + 1, damaged + bool(lines)
    if total == 0:
        print("no shards found", file=sys.stderr)
    return 1 if damaged or not total else 0


def rebuild(paths: Sequence[Path], logs: Path) -> int:
    """Rename every damaged shard to `.<name>.damaged`, which readers ignore, and withdraw its manifest.

    The next submission then builds these shards again. Raises UserError if no ledger under `logs` lists the shard, and
    StorageError, before anything is set aside, if a shard could not be read: that is no damage.
    """
    damaged = [
        (shard, lines)
        for path in paths
        for shard in (shard_paths(path) if path.is_dir() else [path])
        if (lines := list(faults(shard)))
    ]
    for shard, lines in damaged:
        stage = _stage_of(shard, logs)
        print("\n".join(lines))
        owners.require_product(stage, shard)
        shard.replace(shard.with_name(f".{shard.name}.damaged"))
        ledger.withdraw(stage, shard.stem)
        print(f"{shard}: set aside; `make submit-stage0` with RUN={stage.parent.name} builds only this shard again")
    if not damaged:
        print("no shard is damaged")
    return 0


def _stage_of(shard: Path, logs: Path) -> Path:
    """The stage folder whose ledger lists this shard as its output."""
    for manifest in sorted(logs.glob(f"*/*/done/{shard.stem}.json")):
        outputs = documents.find(manifest, documents.MANIFEST).get("outputs", {})
        if shard.resolve() in (Path(owners.now(manifest.parents[1], name)).resolve() for name in outputs):
            return manifest.parents[1]
    raise UserError(f"no run under {logs} made {shard}: give the folder of its run with --logs")
