"""Reads what the HDF5 file of a shard says about its contents, and checks it against the layout.

The names of the layout are looked up and nothing else is visited: time and memory do not depend on what else the file holds.
"""

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5l, h5o, h5t
from h5py._objects import ObjectID

from diagcot.data.errors import DataError
from diagcot.data.study import CHEXPERT_LABELS
from diagcot.shards.format import hdf5
from diagcot.shards.format.layout import ATTRIBUTES, FORMAT, MAY_LACK, NUMBERS, SCHEMA, TEXTS, Column

REBUILD = "run `diagcot shards rebuild` on it, and submit again; copy it again if others made it"
_MOST_NUMBERS, _MOST_TEXTS = 1 << 30, 4 << 30
"""Bytes of a column of numbers (ten million images need less), and of one of texts (its offsets end there)."""
_MOST_ATTRIBUTE = 64 << 20
_JPEG = "images/jpeg"


class Stored(NamedTuple):
    """Where a column lies in the file, what it is, and its checksum."""

    place: int
    size: int  # bytes
    shape: tuple[int, ...]
    dtype: np.dtype
    crc32: int


class Header(NamedTuple):
    """What the HDF5 file says about its contents."""

    columns: dict[str, Stored]
    attrs: dict[str, Any]
    rows: dict[str, int]  # images, studies, boxes, ... -> their number
    blob: int  # place of the images in the file
    blob_size: int  # bytes


class _Refused(ValueError):
    """What is wrong with a part of a file: the part, and the fault."""

    def __init__(self, part: str, fault: str) -> None:
        super().__init__(f"{part} {fault}")


def read(path: Path, near: Path) -> Header:
    """The header of the shard `path`, read from its copy `near`; columns are read by their places later.

    Raises DataError that names file and column, FileNotFoundError, and OSError of the storage.
    """
    length = near.stat().st_size
    with hdf5.opened(near, "r") as file:
        try:
            about = _attributes(file.id, ["format", "schema"])
            if about != {"format": FORMAT, "schema": SCHEMA}:
                raise DataError(f"{path} is not a shard of schema {SCHEMA}; build it again with `make submit-stage0`")
            about = {"code": _attribute(file.id, "the file", "code", str)} | _attributes(file.id, ATTRIBUTES)
            known = {"": file.id}
            blob = _stored(_data_set(known, _JPEG), _JPEG, length, length)
            _check_type(_JPEG, blob, "uint8", 1)
            columns: dict[str, Stored] = {}
            rows: dict[str, int] = {}
            for name, column in _layout(known):
                columns[name] = _column(name, _data_set(known, name), column, rows, length)
            _check_labels(_data_set(known, "studies/labels"))
        except _Refused as error:
            raise DataError(f"{path}: {error}; {REBUILD}") from error
    return Header(columns, about, rows, blob.place, blob.size)


def _attributes(item: ObjectID, names: Iterable[str]) -> dict[str, Any]:
    """Those attributes of the file that it has."""
    return {name: _attribute(item, "the file", name, ATTRIBUTES[name]) for name in names if _has(item, name)}


def _layout(known: dict[str, ObjectID]) -> Iterator[tuple[str, Column | None]]:
    """The names of the columns that the shard must have, and what each holds; None for the bytes of texts."""
    absent = [name for name in MAY_LACK if _find(known, name) is None]
    for name, column in NUMBERS.items():
        if name.split("/")[0] not in absent:
            yield name, column
    for group, names in TEXTS.items():
        for name in (f"{group}/{name}" for name in names):
            if group not in absent and name not in absent:
                yield f"{name}/offset", Column("uint32", group, more=1)
                yield f"{name}/text", None


def _find(known: dict[str, ObjectID], name: str) -> ObjectID | None:
    """A group or data set of the file; None if it has none of this name. known: those found before; "" is the root.

    Raises _Refused for a link by name, which may lead anywhere, also into another file.
    """
    if name not in known:
        parent, _, last = name.rpartition("/")
        group = _find(known, parent)
        if not isinstance(group, h5g.GroupID) or not group.links.exists(last.encode()):
            return None
        if group.links.get_info(last.encode()).type != h5l.TYPE_HARD:
            raise _Refused(name, "is a link to another place")
        known[name] = h5o.open(group, last.encode())
    return known[name]


def _data_set(known: dict[str, ObjectID], name: str) -> h5d.DatasetID:
    found = _find(known, name)
    if not isinstance(found, h5d.DatasetID):
        raise _Refused(f"the column {name}", "is not there")
    return found


def _column(name: str, item: h5d.DatasetID, column: Column | None, rows: dict[str, int], length: int) -> Stored:
    """A column that is as the layout says. rows: how many of each kind there are, to which it may add its own."""
    stored = _stored(item, name, _MOST_NUMBERS if column else _MOST_TEXTS, length)
    _check_type(name, stored, column.dtype if column else "uint8", 2 if column and column.width else 1)
    if column:
        found, width = stored.shape[0] - column.more, (*stored.shape, 0)[1]
        if found < 0 or width != column.width:
            raise _Refused(f"the column {name}", f"has the shape {stored.shape}, which its rows do not have")
        if found != rows.setdefault(column.of, found):
            raise _Refused(f"the column {name}", f"has {found} rows, and the shard {rows[column.of]} {column.of}")
    crc32 = _attribute(item, f"the column {name}", "crc32", int)
    return stored._replace(crc32=crc32)


def _stored(item: h5d.DatasetID, name: str, most: int, length: int) -> Stored:
    """Where a data set lies. most: bytes that it may have. length: of the file.

    Raises _Refused unless it holds numbers in one piece of the file: one that is cut into chunks, packed, or kept in another
    file has no place.
    """
    about = item.get_create_plist()
    if about.get_layout() != h5d.CONTIGUOUS or about.get_external_count():
        raise _Refused(f"the column {name}", "does not lie in one piece of the file")
    try:
        shape, dtype = item.shape, item.dtype
    except TypeError:  # numpy has no such type
        shape = dtype = None
    if shape is None or dtype is None or dtype.kind not in "iufb":
        raise _Refused(f"the column {name}", "holds no numbers")
    size = math.prod(shape) * dtype.itemsize
    place = item.get_offset() if size else 0  # h5py has no place for a data set without rows
    if place is None or size > most or place + size > length:
        raise _Refused(f"the column {name}", "declares more than the file holds, or than a column may have")
    return Stored(int(place), size, shape, dtype, 0)


def _check_type(name: str, stored: Stored, dtype: str, dimensions: int) -> None:
    if stored.dtype != np.dtype(dtype) or len(stored.shape) != dimensions:
        found = stored.dtype.name + " of another byte order" * (not stored.dtype.isnative)
        raise _Refused(
            f"the column {name}",
            f"holds {found} in {len(stored.shape)} dimensions, and a shard {dtype} in {dimensions} there",
        )


def _check_labels(item: h5d.DatasetID) -> None:
    """Raise _Refused unless the columns of the labels are those of CheXpert, in their order."""
    text = _attribute(item, "the column studies/labels", "names", str)
    try:
        names = json.loads(text) if len(text) < 4096 else None
    except ValueError:
        names = None
    if names != list(CHEXPERT_LABELS):
        raise _Refused("the column studies/labels", "names other labels than those of CheXpert, or in another order")


def _has(item: ObjectID, name: str) -> bool:
    return bool(h5a.exists(item, name.encode()))


def _attribute(item: ObjectID, owner: str, name: str, kind: type) -> Any:
    """An attribute that is one whole number or one text. Raises _Refused for another."""
    if not _has(item, name):
        raise _Refused(owner, f"has no attribute {name}")
    about = h5a.open(item, name.encode())
    wanted = h5t.INTEGER if kind is int else h5t.STRING
    if about.get_type().get_class() == wanted and about.shape == () and about.get_storage_size() <= _MOST_ATTRIBUTE:
        if kind is int:
            about.read(number := np.empty((), np.int64))
            return int(number)
        value = h5py.AttributeManager(h5py.HLObject(item))[name]
        with suppress(UnicodeError):
            return (value.encode() if isinstance(value, str) else bytes(value)).decode()
    raise _Refused(
        owner, f"has an attribute {name} that is not one {'whole number' if kind is int else 'text in UTF-8'}"
    )
