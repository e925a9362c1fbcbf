"""Shards that declare more than they hold: each is refused before anything of that size is read."""

import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from isal.isal_zlib import crc32

from diagcot.data.errors import DataError
from diagcot.shards import Shard
from diagcot.shards.verify import faults
from diagcot.shards.writer import ShardWriter
from tests.unit.shards.test_files import made

MOST = 30 << 20  # bytes that a refusal may take
HUGE = 1 << 40


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "00000.h5"
    with ShardWriter(path, part=0, parts=1) as writer:
        for number in range(3):
            writer.add(*made(number))
    return path


def replaced(name: str, make: Callable[[h5py.Group, str], Any]) -> Callable[[h5py.File], None]:
    """A change of a file: another data set in place of one."""

    def change(file: h5py.File) -> None:
        group, _, last = name.rpartition("/")
        del file[name]
        made = make(file[group or "/"], last)
        if isinstance(made, h5py.Dataset):
            made.attrs["crc32"] = np.uint32(0)

    return change


def in_chunks(group: h5py.Group, name: str) -> Any:
    return group.create_dataset(name, (HUGE,), np.uint16, chunks=(1 << 20,), fillvalue=7, compression="gzip")


def without_values(group: h5py.Group, name: str) -> Any:
    return group.create_dataset(name, (HUGE,), np.uint8)


def with_holes(group: h5py.Group, name: str) -> Any:
    space, about = h5py.h5s.create_simple((1 << 29,)), h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    about.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    about.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    h5py.h5d.create(group.id, name.encode(), h5py.h5t.NATIVE_UINT32, space, about)
    return group[name]


def of_texts(group: h5py.Group, name: str) -> Any:
    return group.create_dataset(name, data=["x" * 1000] * 5, dtype=h5py.string_dtype())


def of_objects(group: h5py.Group, name: str) -> Any:
    return group.create_dataset(name, (5,), np.dtype([("a", "S1000000")]))


def elsewhere(group: h5py.Group, name: str) -> Any:
    return group.create_dataset(name, (8,), np.uint8, external=[("/etc/passwd", 0, 8)])


def a_link(group: h5py.Group, name: str) -> Any:
    group[name] = h5py.ExternalLink("/elsewhere.h5", f"{group.name}/{name}")


def places(name: str, values: Any, kind: Any) -> Callable[[h5py.File], None]:
    """A column of places with a right checksum and wrong values."""

    def change(file: h5py.File) -> None:
        del file[name]
        column = file.create_dataset(name, data=np.array(values, kind))
        column.attrs["crc32"] = np.uint32(crc32(column[()].tobytes()))

    return change


@pytest.mark.parametrize(
    "change",
    [
        replaced("images/width", in_chunks),
        replaced("images/jpeg", in_chunks),
        replaced("studies/findings/text", without_values),
        replaced("images/jpeg", without_values),
        replaced("images/crc32", with_holes),
        replaced("studies/id/text", of_texts),
        replaced("images/jpeg", of_texts),
        replaced("images/height", of_objects),
        replaced("studies/findings/text", elsewhere),
        replaced("images/jpeg", elsewhere),
        replaced("images/jpeg", a_link),
        replaced("images", a_link),
        places("studies/first", [0, 1, 2, 2**31 - 1], np.int32),
        places("studies/first", [0, 2, 1, 4], np.int32),
        places("studies/first", [[0, 1], [2, 4]], np.int32),
        places("studies/first", [], np.int32),
        places("images/offset", [0, HUGE, HUGE, HUGE, HUGE], np.int64),
        places("images/offset", [0, -HUGE, 5, 5, 5], np.int64),
        places("studies/findings/offset", [0, 10, 4_000_000_000, 20], np.uint32),
        places("studies/findings/offset", [0, 1, 2, 3], np.uint32),
    ],
)
def test_what_declares_more_than_it_holds_is_refused(
    whole: Path, tmp_path: Path, change: Callable[[h5py.File], None]
) -> None:
    path = tmp_path / "00000.h5"
    shutil.copyfile(whole, path)
    with h5py.File(path, "r+", locking=False) as file:
        change(file)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"00000\.h5.*`diagcot shards rebuild` on it"):
            (shard := Shard(path)).study(0), shard.jpeg(0)
        assert len(list(faults(path))) == 1
        assert tracemalloc.get_traced_memory()[1] < MOST
    finally:
        tracemalloc.stop()
