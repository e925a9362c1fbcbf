"""Reads a shard. Columns are loaded when they are first needed, everything by offset, so that forks are safe."""

import io
import json
import os
import zlib
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from PIL import Image as Pillow

from diagcot.data.errors import DataError
from diagcot.data.study import Box, Image, Study
from diagcot.shards.layout import FORMAT, IMAGE_TEXTS, LEFT_OUT_TEXTS, NOT_MENTIONED, SCHEMA, STUDY_TEXTS

AGAIN = "run `diagcot shards rebuild` on it, and submit again"
_BLOCK = 4 << 20


def shard_paths(root: Path) -> list[Path]:
    """The shards under `root`, sorted by name; files still being written start with a dot and are left out."""
    return sorted(path for path in Path(root).glob("*.h5") if not path.name.startswith("."))


class _Column(NamedTuple):
    """Where a column lies in the file, what it is, and its checksum."""

    place: int
    size: int  # bytes
    shape: tuple[int, ...]
    dtype: np.dtype
    crc32: int


class _Opened(NamedTuple):
    columns: dict[str, _Column]
    attrs: dict[str, Any]
    labels: list[str]
    blob: int  # place of the films in the file


class Shard:
    """A shard, opened on first use in each process; it pickles as its path.

    Numbers are kept in memory once they were needed, about 28 bytes a film and 54 a study when all of them were; texts
    are read where they lie. A film and a column are checked when a process first reads them.
    Rows of films and of studies count from 0. Raises DataError, naming the file, when it is not a whole shard.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._loaded: dict[str, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_loaded": {}}

    def __len__(self) -> int:
        """Number of studies."""
        return len(self._numbers("studies/first")) - 1

    @property
    def images(self) -> int:
        """Number of films."""
        return len(self._numbers("images/offset")) - 1

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes of the file: schema, code version, sources."""
        return self._opened.attrs

    def study(self, i: int) -> Study:
        """Study `i` with its films."""
        tags = self._text("studies/tags", i)
        labels = self._numbers("studies/labels")[i].tolist()
        return Study(
            **{name: self._text(f"studies/{name}", i) for name in STUDY_TEXTS},
            tags=tuple(tags.split("|")) if tags else (),
            labels={n: v for n, v in zip(self._opened.labels, labels, strict=True) if v != NOT_MENTIONED},
            images=tuple(self.image(row) for row in self.rows(i)),
        )

    def split(self, i: int) -> str:
        """Split of study `i`, without building the rest of it."""
        return self._text("studies/split", i)

    def texts(self, name: str) -> list[str]:
        """A whole text column, such as `studies/split`; it is not kept."""
        ends = self._numbers(f"{name}/offset").tolist()
        data = b"".join(self._checked(f"{name}/text"))
        return [data[start:end].decode() for start, end in pairwise(ends)]

    def numbers(self, name: str) -> np.ndarray:
        """A whole column of numbers, such as `studies/labels` [studies, 14] or `images/width`. Not to be changed."""
        return self._numbers(name)

    def left_out(self) -> list[tuple[str, str, str]]:
        """(study's key, film's id, reason) of each film that could not be used when the shard was built."""
        return list(zip(*(self.texts(f"left_out/{name}") for name in LEFT_OUT_TEXTS), strict=True))

    def rows(self, i: int) -> range:
        """Rows of the films of study `i`."""
        first = self._numbers("studies/first")
        return range(int(first[i]), int(first[i + 1]))

    def films(self, split: str | None = None) -> np.ndarray:
        """Rows of the films of a split, or of all, uint32."""
        if split is None:
            return np.arange(self.images, dtype=np.uint32)
        wanted = np.array([name == split for name in self.texts("studies/split")], np.bool_)
        return np.flatnonzero(np.repeat(wanted, np.diff(self._numbers("studies/first")))).astype(np.uint32)

    def study_of(self, row: int) -> int:
        """Row of the study that film `row` belongs to."""
        if not 0 <= row < self.images:
            raise IndexError(f"{self.path} has {self.images} films; there is no row {row}")
        return int(np.searchsorted(self._numbers("studies/first"), row, side="right")) - 1

    def image(self, row: int) -> Image:
        """Film `row` without its pixels; width and height are those in the shard."""
        return Image(
            **{name: self._text(f"images/{name}", row) for name in IMAGE_TEXTS},
            width=int(self._numbers("images/width")[row]),
            height=int(self._numbers("images/height")[row]),
            boxes=tuple(self._boxes.get(row, ())),
            phantom=bool(self._numbers("images/phantom")[row]),
        )

    def jpeg(self, row: int) -> bytes:
        """The JPEG file of film `row`. Raises DataError naming shard, film and study if it is damaged.

        The checksum costs more than the read, so a film that this process found whole is not checked again.
        """
        offset, blob = self._films
        if not 0 <= row < len(offset) - 1:
            raise IndexError(f"{self.path} has {self.images} films; there is no row {row}")
        start, end = int(offset[row]), int(offset[row + 1])
        data = os.pread(self._handle, end - start, blob + start)
        if not self._whole[row]:
            self._check_film(row, data)
        return data

    def _check_film(self, row: int, data: bytes) -> None:
        if zlib.crc32(data) != self._numbers("images/crc32")[row]:
            study = self.study(self.study_of(row))
            raise DataError(f"{self.path}: film {self.image(row).id} of {study.key} (row {row}) is damaged; {AGAIN}")
        self._whole[row] = 1

    def pixels(self, row: int) -> Pillow.Image:
        """Film `row` decoded, mode RGB."""
        return Pillow.open(io.BytesIO(self.jpeg(row))).convert("RGB")

    def check_columns(self) -> None:
        """Read every column. Raises DataError for the first that is damaged."""
        for name in self._opened.columns:
            for _ in self._checked(name):
                pass

    @cached_property
    def _opened(self) -> _Opened:
        """What the file says about itself. Columns are read by their places later, and the HDF5 file is closed."""
        columns: dict[str, _Column] = {}
        try:
            # No lock: a published shard never changes, and some network file systems know no locks.
            with h5py.File(self.path, "r", locking=False) as file:
                attrs = {n: v.decode() if isinstance(v, bytes) else v for n, v in file.attrs.items()}
                if attrs.get("format") != FORMAT or attrs.get("schema") != SCHEMA:
                    raise DataError(
                        f"{self.path} is not a shard of schema {SCHEMA}; build it again with `make submit-stage0`"
                    )

                def note(name: str, item: h5py.Group | h5py.Dataset) -> None:
                    if isinstance(item, h5py.Dataset) and name != "images/jpeg":
                        # h5py gives no place for a data set without rows.
                        place = item.id.get_offset() if item.size else 0
                        size = int(item.size) * item.dtype.itemsize
                        columns[name] = _Column(int(place), size, item.shape, item.dtype, int(item.attrs["crc32"]))

                file.visititems(note)
                films = file["images/jpeg"]
                opened = _Opened(
                    columns, attrs, json.loads(file["studies/labels"].attrs["names"]), films.id.get_offset() or 0
                )
                size = len(films)
            self._opened = opened  # _numbers needs it
            if self._numbers("images/offset")[-1] != size:
                raise DataError(f"{self.path}: offsets do not fit the films; {AGAIN}")
        except FileNotFoundError as error:
            raise DataError(f"{self.path} does not exist; build the shards first (`make submit-stage0`)") from error
        except DataError:
            self.__dict__.pop("_opened", None)
            raise
        except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:  # h5py has no error of its own
            raise DataError(f"{self.path} is not a whole shard ({error}); {AGAIN}") from error
        return opened

    def _checked(self, name: str) -> Iterator[bytes]:
        """The bytes of a column. Raises DataError at their end if they are not what was written."""
        column, crc = self._opened.columns[name], 0
        for at in range(0, column.size, _BLOCK):
            block = os.pread(self._handle, min(_BLOCK, column.size - at), column.place + at)
            crc = zlib.crc32(block, crc)
            yield block
        if crc != column.crc32:
            raise DataError(f"{self.path}: the column {name} is damaged; {AGAIN}")

    def _numbers(self, name: str) -> np.ndarray:
        """A column of numbers, kept."""
        found = self._loaded.get(name)
        if found is None:
            column = self._opened.columns[name]
            found = np.frombuffer(b"".join(self._checked(name)), column.dtype).reshape(column.shape)
            self._loaded[name] = found
        return found

    def _text(self, name: str, row: int) -> str:
        """One text of a column, which is checked as a whole when it is first met."""
        if name not in self._read:
            for _ in self._checked(f"{name}/text"):
                pass
            self._read.add(name)
        offset = self._numbers(f"{name}/offset")
        start, end = int(offset[row]), int(offset[row + 1])
        return os.pread(self._handle, end - start, self._opened.columns[f"{name}/text"].place + start).decode()

    @cached_property
    def _read(self) -> set[str]:
        """Text columns that were found whole."""
        return set()

    @cached_property
    def _films(self) -> tuple[np.ndarray, int]:
        return self._numbers("images/offset"), self._opened.blob

    @cached_property
    def _whole(self) -> bytearray:
        """1 for each film that was found whole."""
        return bytearray(self.images)

    @cached_property
    def _boxes(self) -> dict[int, list[Box]]:
        boxes: dict[int, list[Box]] = {}
        rows, corners = self._numbers("boxes/image").tolist(), self._numbers("boxes/corners").tolist()
        labels, phrases = self.texts("boxes/label"), self.texts("boxes/phrase")
        for row, label, (x1, y1, x2, y2), phrase in zip(rows, labels, corners, phrases, strict=True):
            boxes.setdefault(row, []).append(Box(label, x1, y1, x2, y2, phrase))
        return boxes

    @cached_property
    def _handle(self) -> int:
        """A plain file descriptor: pread(2) has no shared position, so a forked child may use its parent's."""
        return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if "_handle" in self.__dict__:
            os.close(self._handle)
