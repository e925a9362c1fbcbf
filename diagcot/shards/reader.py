"""Reads a shard. Columns are loaded when they are first needed; all reads are by offset, so that forks are safe."""

import io
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from isal.isal_zlib import crc32  # zlib's own takes half of the time of a read
from PIL import Image as Pillow

from diagcot.data.errors import DataError
from diagcot.data.reports import controls
from diagcot.data.study import CHEXPERT_LABELS, Box, Image, Question, Study
from diagcot.jobs.execution import copies
from diagcot.jobs.state import reading
from diagcot.shards.audit import accounting
from diagcot.shards.files import File
from diagcot.shards.format import header
from diagcot.shards.format.header import REBUILD, Header
from diagcot.shards.format.layout import (
    IMAGE_TEXTS,
    LEFT_OUT_TEXTS,
    NOT_MENTIONED,
    NUMBERS,
    QUESTION_LISTS,
    REPORT_TEXTS,
    STUDY_TEXTS,
)

_BLOCK = 4 << 20
_MOST_IMAGE = 256 << 20  # bytes
_Result = TypeVar("_Result")


def shard_paths(root: Path) -> list[Path]:
    """The shards under `root`, sorted by name; files that are still being written start with a dot and are left out.

    Raises StorageError if the folder cannot be read.
    """
    return reading.listing(Path(root), "*.h5")


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
        return self._header.rows["studies"]

    @property
    def images(self) -> int:
        """Number of images."""
        return self._header.rows["images"]

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes of the file: schema, code version, sources; those that are JSON as text."""
        return self._header.attrs

    @property
    def sources(self) -> list[dict[str, Any]]:
        """What the shard was made of: `dataset`, and settings that a source may lack. Empty if the file does not say it."""
        return self._parsed("sources", accounting.sources) or []

    @property
    def accounts(self) -> dict[str, Any]:
        """Source -> its counts (`diagcot.shards.audit.accounting.Account`). Empty if the file has none."""
        return self._parsed("accounts", accounting.accounts) or {}

    def _parsed(self, name: str, parse: Callable[[str], _Result]) -> _Result | None:
        """An attribute of JSON; None if the file does not have it."""
        if name not in self.attrs:
            return None
        try:
            return parse(self.attrs[name])
        except (ValueError, RecursionError) as error:
            raise DataError(f"{self.path}: the attribute {name} is not what a shard has there; {REBUILD}") from error

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
            labels={n: v for n, v in zip(CHEXPERT_LABELS, labels, strict=True) if v != NOT_MENTIONED},
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
        return [self._decoded(name, row, data[start:end]) for row, (start, end) in enumerate(pairwise(ends))]

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
            self._check_crc(row, data)
        return data

    def _check_crc(self, row: int, data: bytes) -> None:
        if crc32(data) != self._numbers("images/crc32")[row]:
            study = self.study(self.study_of(row))
            raise DataError(f"{self.path}: image {self.image(row).id} of {study.key} (row {row}) is damaged; {REBUILD}")
        self._intact[row] = 1

    def pixels(self, row: int) -> Pillow.Image:
        """Image `row` decoded, mode RGB. Raises DataError as `jpeg`, also for what cannot be decoded."""
        return self._decoded_image(row, lambda image: image.convert("RGB"))

    def check_image(self, row: int) -> None:
        """Decode image `row`, at the scale that takes the least time. Raises DataError as `pixels`."""

        def decode(image: Pillow.Image) -> None:
            image.draft("L", (1, 1))
            image.load()

        self._decoded_image(row, decode)

    def _decoded_image(self, row: int, decode: Callable[[Pillow.Image], _Result]) -> _Result:
        """What `decode` gives. The header of an image is read before: it may declare any size."""
        data, cause = self.jpeg(row), None
        width, height = (int(self._numbers(f"images/{name}")[row]) for name in ("width", "height"))
        try:
            image = Pillow.open(io.BytesIO(data), formats=["JPEG"])
            if image.size == (width, height):
                return decode(image)
        except MemoryError:
            raise
        except Exception as error:  # decoders raise errors of any class on damaged bytes
            cause = error
        wanted = f"a JPEG of {width} x {height} pixels that can be decoded"
        raise DataError(f"{self.path}: the image in row {row} is not {wanted}; {REBUILD}") from cause

    def check_columns(self) -> None:
        """Read every column. Raises DataError for the first that is damaged, or that has a value which it cannot have."""
        for name in self._header.columns:
            if name in NUMBERS or name.endswith("/offset"):
                self._numbers(name)
            else:
                for _ in self._checked(name):
                    pass

    @cached_property
    def _header(self) -> Header:
        """The contents of the file. Columns are read by their places later, and the HDF5 file is closed."""
        try:
            return reading.patient(self.path, lambda: header.read(self.path, self._near))
        except FileNotFoundError as error:
            raise DataError(f"{self.path} does not exist; build the shards first (`make submit-stage0`)") from error
        except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:  # h5py has no error class
            raise DataError(f"{self.path} is not a whole shard ({error}); {REBUILD}") from error

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
            elif values.size:
                self._check_values(name, values)
            self._loaded[name] = values
        return values

    def _check_places(self, name: str, values: np.ndarray) -> None:
        """Raise DataError unless a column of places rises from 0 to the end of what it divides."""
        if name == "studies/first":
            end = self.images
        elif name == "images/offset":
            end = self._header.blob_size
        else:
            end = self._header.columns[name.removesuffix("/offset") + "/text"].size
        if (values[0], values[-1]) != (0, end) or (values[1:] < values[:-1]).any():
            raise DataError(f"{self.path}: the column {name} does not fit what it divides; {REBUILD}")

    def _check_values(self, name: str, values: np.ndarray) -> None:
        """Raise DataError unless the values of a column with rows are such as it may have."""
        fault = ""
        if allowed := NUMBERS[name].allowed:
            least, most = allowed
            most = self._header.rows[most] - 1 if isinstance(most, str) else most
            numbers = values.view(np.uint8) if values.dtype == np.bool_ else values
            if not (least <= numbers.min() and numbers.max() <= most):  # NaN is neither
                fault = f"has a value that is not from {least} to {most}"
        if name == "boxes/corners" and (values[:, :2] > values[:, 2:]).any():
            fault = fault or "has a box that ends before it begins"
        if name == "images/study":
            first = self._numbers("studies/first")
            if not np.array_equal(values, np.repeat(np.arange(len(self)), np.diff(first))):
                fault = fault or "does not fit studies/first"
        if fault:
            raise DataError(f"{self.path}: the column {name} {fault}; {REBUILD}")

    def _text(self, name: str, row: int) -> str:
        """One text of a column. The column is checked as a whole when this process first reads it."""
        if name not in self._intact_texts:
            for _ in self._checked(f"{name}/text"):
                pass
            self._intact_texts.add(name)
        offset = self._numbers(f"{name}/offset")
        start, end = int(offset[row]), int(offset[row + 1])
        data = self._file.read(end - start, self._header.columns[f"{name}/text"].place + start)
        return self._decoded(name, row, data)

    def _decoded(self, name: str, row: int, data: bytes) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path}: the column {name} has no UTF-8 in row {row}; {REBUILD}") from error

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
