"""Reads a shard. Columns are loaded once; films are read by offset, without HDF5, so that forks are safe."""

import io
import json
import os
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image as Pillow

from diagcot.data.errors import DataError
from diagcot.data.study import Box, Image, Study
from diagcot.shards.layout import FORMAT, IMAGE_TEXTS, NOT_MENTIONED, SCHEMA, STUDY_TEXTS


def shard_paths(root: Path) -> list[Path]:
    """The shards under `root`, sorted by name; files still being written start with a dot and are left out."""
    return sorted(path for path in Path(root).glob("*.h5") if not path.name.startswith("."))


class Shard:
    """A shard, opened on first use in each process; it pickles as its path.

    Rows of films and of studies count from 0. Raises DataError, naming the file, when it is not a whole shard.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __len__(self) -> int:
        """Number of studies."""
        return len(self._columns["studies/first"]) - 1

    @property
    def images(self) -> int:
        """Number of films."""
        return len(self._columns["images/offset"]) - 1

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes of the file: schema, code version, sources."""
        return self._opened[1]

    def study(self, i: int) -> Study:
        """Study `i` with its films."""
        texts = self._texts
        tags = texts["studies/tags"][i]
        return Study(
            **{name: texts[f"studies/{name}"][i] for name in STUDY_TEXTS},
            tags=tuple(tags.split("|")) if tags else (),
            labels={
                n: int(v)
                for n, v in zip(self._names, self._columns["studies/labels"][i], strict=True)
                if v != NOT_MENTIONED
            },
            images=tuple(self.image(row) for row in self.rows(i)),
        )

    def split(self, i: int) -> str:
        """Split of study `i`, without building the rest of it."""
        return self._texts["studies/split"][i]

    def rows(self, i: int) -> range:
        """Rows of the films of study `i`."""
        first = self._columns["studies/first"]
        return range(int(first[i]), int(first[i + 1]))

    def study_of(self, row: int) -> int:
        """Row of the study that film `row` belongs to."""
        return int(self._columns["images/study"][row])

    def image(self, row: int) -> Image:
        """Film `row` without its pixels; width and height are those in the shard."""
        columns = self._columns
        return Image(
            **{name: self._texts[f"images/{name}"][row] for name in IMAGE_TEXTS},
            width=int(columns["images/width"][row]),
            height=int(columns["images/height"][row]),
            boxes=tuple(self._boxes.get(row, ())),
            phantom=bool(columns["images/phantom"][row]),
        )

    def jpeg(self, row: int) -> bytes:
        """The JPEG file of film `row`."""
        if not 0 <= row < self.images:
            raise IndexError(f"{self.path} has {self.images} films; there is no row {row}")
        offset = self._columns["images/offset"]
        start, end = int(offset[row]), int(offset[row + 1])
        data = os.pread(self._handle, end - start, self._opened[2] + start)
        if len(data) != end - start:
            raise DataError(f"{self.path} is cut short at film row {row}; build the shard again")
        return data

    def pixels(self, row: int) -> Pillow.Image:
        """Film `row` decoded, mode RGB."""
        return Pillow.open(io.BytesIO(self.jpeg(row))).convert("RGB")

    @cached_property
    def _opened(self) -> tuple[dict[str, np.ndarray], dict[str, Any], int]:
        """Columns by name, attributes, and the place of the blob in the file; the HDF5 file is closed again at once."""
        columns: dict[str, np.ndarray] = {}
        try:
            with h5py.File(self.path, "r") as file:
                attrs = dict(file.attrs)
                if attrs.get("format") != FORMAT or attrs.get("schema") != SCHEMA:
                    raise DataError(
                        f"{self.path} is not a shard of schema {SCHEMA}; build it again with `make submit-stage0`"
                    )

                def take(name: str, item: h5py.Group | h5py.Dataset) -> None:
                    if isinstance(item, h5py.Dataset) and name != "images/jpeg":
                        columns[name] = item[()]

                file.visititems(take)
                blob = file["images/jpeg"].id.get_offset()  # None where the shard has no film
                columns["names"] = np.array(json.loads(file["studies/labels"].attrs["names"]))
        except FileNotFoundError as error:
            raise DataError(f"{self.path} does not exist; build the shards first (`make submit-stage0`)") from error
        except (OSError, KeyError) as error:
            raise DataError(
                f"{self.path} is not a whole shard ({error}); build it again with `make submit-stage0`"
            ) from error
        return columns, attrs, blob or 0

    @property
    def _columns(self) -> dict[str, np.ndarray]:
        return self._opened[0]

    @cached_property
    def _names(self) -> list[str]:
        return [str(name) for name in self._columns["names"]]

    @cached_property
    def _texts(self) -> dict[str, list[str]]:
        """Every text column, decoded."""
        found = {}
        for name in self._columns:
            if name.endswith("/text"):
                column = name.removesuffix("/text")
                data = self._columns[name].tobytes()
                ends = self._columns[f"{column}/offset"].tolist()
                found[column] = [data[a:b].decode() for a, b in pairwise(ends)]
        return found

    @cached_property
    def _boxes(self) -> dict[int, list[Box]]:
        boxes: dict[int, list[Box]] = {}
        rows, corners = self._columns["boxes/image"].tolist(), self._columns["boxes/corners"].tolist()
        labels, phrases = self._texts["boxes/label"], self._texts["boxes/phrase"]
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
