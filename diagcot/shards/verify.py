"""Checks shards against their own checksums and offsets: `diagcot shards verify FOLDER_OR_SHARD…`."""

import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np

from diagcot.data.errors import DataError
from diagcot.shards.reader import Shard, shard_paths


def faults(path: Path) -> Iterator[str]:
    """One line for each fault, with the shard and the record; nothing for a shard that is whole."""
    shard = Shard(path)
    try:
        count = len(shard)
    except DataError as error:
        yield str(error)
        return
    with h5py.File(path, "r") as file:
        damaged = [name for name, data in _columns(file) if zlib.crc32(data[()].tobytes()) != data.attrs["crc32"]]
        crcs = file["images/crc32"][()]
        phantom_rows, blob = len(file["images/phantom"]), len(file["images/jpeg"])
        offset, first = file["images/offset"][()], file["studies/first"][()]
    yield from (f"{path}: the column {name} is damaged" for name in damaged)
    if damaged:
        return
    if offset[-1] != blob or first[-1] != phantom_rows or (np.diff(offset) <= 0).any() or (np.diff(first) < 0).any():
        yield f"{path}: offsets do not fit the films"
        return
    for row in range(shard.images):
        try:
            whole = zlib.crc32(shard.jpeg(row)) == crcs[row]
        except DataError:
            whole = False
        if not whole:
            study = shard.study(shard.study_of(row))
            yield f"{path}: film {shard.image(row).id} of {study.key} (row {row}) is damaged"
    if count == 0:
        yield f"{path}: holds no study"


def _columns(file: h5py.File) -> list[tuple[str, h5py.Dataset]]:
    found: list[tuple[str, h5py.Dataset]] = []

    def take(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset) and "crc32" in item.attrs:
            found.append((name, item))

    file.visititems(take)
    return found


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
