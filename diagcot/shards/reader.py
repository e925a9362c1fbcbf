"""Reads a shard. Columns are loaded when they are first needed; all reads are by offset, so that forks are safe."""

import io
import json
import math
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from isal.isal_zlib import crc32  # zlib's own takes half of the time of a read
from PIL import Image as Pillow

from diagcot.data.errors import DataError
from diagcot.data.reports import controls
from diagcot.data.study import Box, Image, Question, Study
from diagcot.jobs import UserError
from diagcot.jobs.execution import copies
from diagcot.jobs.state import reading
from diagcot.shards import hdf5
from diagcot.shards.files import File
from diagcot.shards.layout import (
    FORMAT,
    IMAGE_TEXTS,
    LEFT_OUT_TEXTS,
    NOT_MENTIONED,
    QUESTION_LISTS,
    REPORT_TEXTS,
    SCHEMA,
    STUDY_TEXTS,
)

REBUILD = "run `diagcot shards rebuild` on it, and submit again"
_BLOCK = 4 << 20
_MOST_NUMBERS, _MOST_TEXTS, _MOST_IMAGE = 1 << 30, 4 << 30, 256 << 20
"""Bytes of a column of numbers (ten million images need less), of one of texts (its offsets end there), and of an image."""


def shard_paths(root: Path) -> list[Path]:
    """The shards under `root`, sorted by name; files that are still being written start with a dot and are left out.

    Raises StorageError if the folder cannot be read.
    """
    return reading.listing(Path(root), "*.h5")


class _Column(NamedTuple):
    """Where a column lies in the file, what it is, and its checksum."""

    place: int
    size: int  # bytes
    shape: tuple[int, ...]
    dtype: np.dtype
    crc32: int


class _Header(NamedTuple):
    """What the HDF5 file says about its contents."""

    columns: dict[str, _Column]
    attrs: dict[str, Any]
    labels: list[str]
    blob: int  # place of the images in the file


class Shard:
    """A shard, opened on first use in each process; it pickles as its path.

    Numbers are kept in memory once they were needed: about 28 bytes for each image and 54 for each study if all are.
    Texts are read from the file each time. An image and a column are checked when a process first reads them.
    Rows of images and of studies count from 0. Raises DataError, naming the file, when it is not a whole shard, and
    StorageError when the machine or its storage could not read it.
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
        """Number of images."""
        return len(self._numbers("images/offset")) - 1

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes of the file: schema, code version, sources."""
        return self._header.attrs

    @property
    def has_questions(self) -> bool:
        """Whether a collection of the shard asks questions itself."""
        return "questions/study" in self._header.columns

    @property
    def fingerprint(self) -> str:
        """The checksums of all columns, those of every image's size and place among them, in hexadecimal."""
        return "".join(f"{self._header.columns[name].crc32:08x}" for name in sorted(self._header.columns))

    def study(self, i: int) -> Study:
        """Study `i` with its images and questions. Control tokens of models in its texts are plain text
        (`diagcot.data.reports.controls`).
        """
        tags = self._text("studies/tags", i)
        labels = self._numbers("studies/labels")[i].tolist()
        known = (name for name in STUDY_TEXTS if f"studies/{name}/text" in self._header.columns)
        texts = {name: self._text(f"studies/{name}", i) for name in known}
        return Study(
            **texts | {name: controls.as_text(texts[name]) for name in REPORT_TEXTS},
            tags=tuple(controls.as_text(tag) for tag in tags.split("|")) if tags else (),
            labels={n: v for n, v in zip(self._header.labels, labels, strict=True) if v != NOT_MENTIONED},
            images=tuple(self.image(row) for row in self.rows(i)),
            questions=tuple(map(self._question, self._questions.get(i, ()))),
        )

    def _question(self, row: int) -> Question:
        def text(name: str) -> str:
            return controls.as_text(self._text(f"questions/{name}", row))

        answers, options = (tuple(text(name).splitlines()) for name in QUESTION_LISTS)
        return Question(text("text"), answers, options, text("image"), text("earlier"), text("reason"))

    def split(self, i: int) -> str:
        """Split of study `i`, without reading the rest of the study."""
        return self._text("studies/split", i)

    def texts(self, name: str) -> list[str]:
        """A whole text column, such as `studies/split`; it is not kept in memory."""
        ends = self._numbers(f"{name}/offset").tolist()
        data = b"".join(self._checked(f"{name}/text"))
        return [data[start:end].decode() for start, end in pairwise(ends)]

    def numbers(self, name: str) -> np.ndarray:
        """A whole column of numbers, such as `studies/labels` [studies, 14] or `images/width`. Do not change it."""
        return self._numbers(name)

    def left_out(self) -> list[tuple[str, str, str]]:
        """(key of the study, id of the image, reason) of each image that could not be used when the shard was built."""
        return list(zip(*(self.texts(f"left_out/{name}") for name in LEFT_OUT_TEXTS), strict=True))

    def rows(self, i: int) -> range:
        """Rows of the images of study `i`."""
        first = self._numbers("studies/first")
        return range(int(first[i]), int(first[i + 1]))

    def image_rows(self, split: str | None = None) -> np.ndarray:
        """Rows of the images of a split, or of all images, uint32."""
        if split is None:
            return np.arange(self.images, dtype=np.uint32)
        wanted = np.array([name == split for name in self.texts("studies/split")], np.bool_)
        return np.flatnonzero(np.repeat(wanted, np.diff(self._numbers("studies/first")))).astype(np.uint32)

    def study_of(self, row: int) -> int:
        """Row of the study that image `row` belongs to. Raises IndexError."""
        if not 0 <= row < self.images:
            raise IndexError(f"{self.path} has {self.images} images; there is no row {row}")
        return int(np.searchsorted(self._numbers("studies/first"), row, side="right")) - 1

    def image(self, row: int) -> Image:
        """Image `row` without its pixels; width and height are those in the shard."""
        return Image(
            **{name: self._text(f"images/{name}", row) for name in IMAGE_TEXTS},
            width=int(self._numbers("images/width")[row]),
            height=int(self._numbers("images/height")[row]),
            boxes=tuple(self._boxes.get(row, ())),
            phantom=bool(self._numbers("images/phantom")[row]),
        )

    def jpeg(self, row: int) -> bytes:
        """The JPEG file of image `row`. Raises DataError that names shard, image and study if it is damaged.

        The checksum takes longer than the read, so each process checks an image only once.
        """
        offset, blob = self._jpegs
        if not 0 <= row < len(offset) - 1:
            raise IndexError(f"{self.path} has {self.images} images; there is no row {row}")
        start, end = int(offset[row]), int(offset[row + 1])
        if end - start > _MOST_IMAGE:
            raise DataError(f"{self.path}: row {row} has over {_MOST_IMAGE >> 20} MB, which no image has; {REBUILD}")
        data = self._file.read(end - start, blob + start)
        if not self._intact[row]:
            self._check_image(row, data)
        return data

    def _check_image(self, row: int, data: bytes) -> None:
        if crc32(data) != self._numbers("images/crc32")[row]:
            study = self.study(self.study_of(row))
            raise DataError(f"{self.path}: image {self.image(row).id} of {study.key} (row {row}) is damaged; {REBUILD}")
        self._intact[row] = 1

    def pixels(self, row: int) -> Pillow.Image:
        """Image `row` decoded, mode RGB."""
        return Pillow.open(io.BytesIO(self.jpeg(row)), formats=["JPEG"]).convert("RGB")

    def check_columns(self) -> None:
        """Read every column. Raises DataError for the first that is damaged."""
        for name in self._header.columns:
            for _ in self._checked(name):
                pass

    @cached_property
    def _header(self) -> _Header:
        """The contents of the file. Columns are read by their places later, and the HDF5 file is closed."""
        try:
            self._header, size = reading.patient(self.path, self._read_header)
            if self._numbers("images/offset")[-1] != size:  # needs the header
                raise DataError(f"{self.path}: offsets do not fit the images; {REBUILD}")
        except FileNotFoundError as error:
            raise DataError(f"{self.path} does not exist; build the shards first (`make submit-stage0`)") from error
        except UserError:
            self.__dict__.pop("_header", None)
            raise
        except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:  # h5py has no error class
            raise DataError(f"{self.path} is not a whole shard ({error}); {REBUILD}") from error
        return self._header

    def _read_header(self) -> tuple[_Header, int]:
        """The header, and the number of bytes of all images. Raises what h5py raises, and OSError of the storage."""
        found: dict[str, h5py.Dataset] = {}

        def add(name: str, item: h5py.Group | h5py.Dataset) -> None:
            if isinstance(item, h5py.Dataset):
                found[name] = item

        length = self._near.stat().st_size
        with hdf5.opened(self._near, "r") as file:
            attrs = {n: v.decode() if isinstance(v, bytes) else v for n, v in file.attrs.items()}
            if attrs.get("format") != FORMAT or attrs.get("schema") != SCHEMA:
                raise DataError(
                    f"{self.path} is not a shard of schema {SCHEMA}; build it again with `make submit-stage0`"
                )
            file.visititems(add)  # follows no link to another file
            blob, size = _place(found["images/jpeg"], length, length)
            labels = json.loads(found["studies/labels"].attrs["names"])
            columns = {}
            for name, item in found.items():
                if name != "images/jpeg":
                    most = _MOST_TEXTS if name.endswith("/text") else _MOST_NUMBERS
                    place = _place(item, most, length)
                    columns[name] = _Column(*place, item.shape, item.dtype, int(item.attrs["crc32"]))
            return _Header(columns, attrs, labels, blob), size

    def _checked(self, name: str) -> Iterator[bytes]:
        """The bytes of a column. Raises DataError after the last one if the checksum is wrong."""
        column, crc = self._header.columns[name], 0
        for at in range(0, column.size, _BLOCK):
            block = self._file.read(min(_BLOCK, column.size - at), column.place + at)
            crc = crc32(block, crc)
            yield block
        if crc != column.crc32:
            raise DataError(f"{self.path}: the column {name} is damaged; {REBUILD}")

    def _numbers(self, name: str) -> np.ndarray:
        """A column of numbers, kept in memory."""
        values = self._loaded.get(name)
        if values is None:
            column = self._header.columns[name]
            values = np.frombuffer(b"".join(self._checked(name)), column.dtype).reshape(column.shape)
            if name.endswith(("/offset", "/first")):
                self._check_places(name, values)
            self._loaded[name] = values
        return values

    def _check_places(self, name: str, values: np.ndarray) -> None:
        """Raise DataError unless a column of places rises from 0 to the end of what it divides."""
        divided = name.removesuffix("/offset") + "/text"
        column = self._header.columns.get(divided)
        end = values[-1:] if column is None else [column.size]
        if name == "studies/first":
            end = [self.images]
        if values.ndim != 1 or [*values[:1], *values[-1:]] != [0, *end] or (values[1:] < values[:-1]).any():
            raise DataError(f"{self.path}: the column {name} does not fit what it divides; {REBUILD}")

    def _text(self, name: str, row: int) -> str:
        """One text of a column. The column is checked as a whole when this process first reads it."""
        if name not in self._intact_texts:
            for _ in self._checked(f"{name}/text"):
                pass
            self._intact_texts.add(name)
        offset = self._numbers(f"{name}/offset")
        start, end = int(offset[row]), int(offset[row + 1])
        return self._file.read(end - start, self._header.columns[f"{name}/text"].place + start).decode()

    @cached_property
    def _intact_texts(self) -> set[str]:
        """Text columns whose checksum this process has found right."""
        return set()

    @cached_property
    def _jpegs(self) -> tuple[np.ndarray, int]:
        return self._numbers("images/offset"), self._header.blob

    @cached_property
    def _intact(self) -> bytearray:
        """1 for each image whose checksum this process has found right."""
        return bytearray(self.images)

    @cached_property
    def _boxes(self) -> dict[int, list[Box]]:
        boxes: dict[int, list[Box]] = {}
        rows, corners = self._numbers("boxes/image").tolist(), self._numbers("boxes/corners").tolist()
        labels, phrases = self.texts("boxes/label"), self.texts("boxes/phrase")
        for row, label, (x1, y1, x2, y2), phrase in zip(rows, labels, corners, phrases, strict=True):
            box = Box(controls.as_text(label), x1, y1, x2, y2, controls.as_text(phrase))
            boxes.setdefault(row, []).append(box)
        return boxes

    @cached_property
    def _questions(self) -> dict[int, list[int]]:
        """Row of a study -> rows of its questions."""
        found: dict[int, list[int]] = {}
        if self.has_questions:
            for row, study in enumerate(self._numbers("questions/study").tolist()):
                found.setdefault(study, []).append(row)
        return found

    @cached_property
    def _file(self) -> File:
        return File(self._near)

    @cached_property
    def _near(self) -> Path:
        """The file that is read: the copy on this node's disk where the cluster has it so (`local_shards`)."""
        return copies.near(self.path)


def _place(item: h5py.Dataset, most: int, length: int) -> tuple[int, int]:
    """Where the bytes of a data set lie in the file, and how many. most: that it may have. length: of the file.

    Raises ValueError unless it holds numbers in one piece of the file. One that is cut into chunks, packed, or kept in another
    file has no place.
    """
    size = math.prod(item.shape) * item.dtype.itemsize
    place = int(item.id.get_offset()) if size else 0  # h5py has no place for a data set without rows
    if item.dtype.kind not in "iufb" or size > most or place + size > length:
        raise ValueError(f"{item.name} is no column of a shard")
    return place, size
