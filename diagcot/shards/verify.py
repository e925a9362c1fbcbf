"""Checks shards against their own checksums, and sets damaged ones aside so that they, and no others, are built again.

`diagcot shards verify FOLDER_OR_SHARD…`, `diagcot shards rebuild FOLDER_OR_SHARD…`.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from diagcot.data.errors import DataError
from diagcot.jobs import UserError
from diagcot.jobs.state import ledger
from diagcot.shards.reader import Shard, shard_paths


def faults(path: Path) -> Iterator[str]:
    """One line for each fault, with the shard and the record; nothing for a shard that is whole."""
    shard = Shard(path)
    try:
        shard.check_columns()
        count = len(shard)
        for i in range(count):
            shard.study(i)
    except (DataError, LookupError, ValueError) as error:
        yield str(error) if isinstance(error, DataError) else f"{path}: its columns do not fit ({error})"
        return
    for row in range(shard.images):
        try:
            shard.jpeg(row)
        except DataError as error:
            yield str(error)
    if count == 0:
        yield f"{path}: holds no study"


def check(paths: Sequence[Path]) -> int:
    """Say of every shard, or of every shard in a folder, whether it is whole; 1 if one is not or there is none."""
    wrong = total = 0
    for path in paths:
        for shard in shard_paths(path) if path.is_dir() else [path]:
            found = list(faults(shard))
            print("\n".join(found) or f"{shard}: whole, {len(Shard(shard))} studies, {Shard(shard).images} films")
            total, wrong = total + 1, wrong + bool(found)
    if total == 0:
        print("no shards there", file=sys.stderr)
    return 1 if wrong or not total else 0


def rebuild(paths: Sequence[Path], logs: Path) -> int:
    """Set every damaged shard aside, as `.<name>.damaged`, which no reader sees, and take back that it is done.

    Raises UserError if no ledger under `logs` knows the shard.
    """
    damaged = [
        (shard, found)
        for path in paths
        for shard in (shard_paths(path) if path.is_dir() else [path])
        if (found := list(faults(shard)))
    ]
    for shard, found in damaged:
        stage = _stage_of(shard, logs)
        print("\n".join(found))
        shard.replace(shard.with_name(f".{shard.name}.damaged"))
        ledger.withdraw(stage, shard.stem)
        print(f"{shard}: set aside; `make submit-stage0` with RUN={stage.parent.name} builds it again, and it alone")
    if not damaged:
        print("no shard is damaged")
    return 0


def _stage_of(shard: Path, logs: Path) -> Path:
    """The stage folder whose ledger says that it made this shard."""
    for manifest in sorted(logs.glob(f"*/*/done/{shard.stem}.json")):
        if str(shard.resolve()) in (str(Path(name).resolve()) for name in json.loads(manifest.read_text())["outputs"]):
            return manifest.parents[1]
    raise UserError(f"no run under {logs} has made {shard}: name its folder of runs with --logs")
