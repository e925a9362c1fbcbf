"""Writes a shard: films stream through a scratch file, columns are kept in memory, the same input is the same bytes."""

import json
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from diagcot import __version__
from diagcot.data.pixels import Jpeg
from diagcot.data.study import CHEXPERT_LABELS, Image, Study
from diagcot.shards.layout import FORMAT, IMAGE_TEXTS, NOT_MENTIONED, SCHEMA, STUDY_TEXTS

_BLOCK = 16 << 20


class ShardWriter:
    """A context manager; the file is written when the block ends without an error, and removed when it does not."""

    def __init__(self, path: Path, **provenance: Any) -> None:
        """`provenance` becomes attributes of the file; a value that is not a number or text is kept as JSON."""
        self.path = path
        self._provenance = provenance
        self._films = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115  closed by __exit__
        self._discarded = False
        self._offsets = [0]
        self._crcs: list[int] = []
        self._images: list[tuple[int, Image]] = []
        self._studies: list[Study] = []

    def add(self, study: Study, films: Sequence[Jpeg]) -> None:
        """Add a study and the films of `study.images`, in their order."""
        row = len(self._studies)
        self._studies.append(study)
        for image, film in zip(study.images, films, strict=True):
            self._films.write(film.data)
            self._offsets.append(self._offsets[-1] + len(film.data))
            self._crcs.append(zlib.crc32(film.data))
            stored = Image(image.id, image.view, film.width, film.height, image.boxes, image.phantom or film.phantom)
            self._images.append((row, stored))

    def discard(self) -> None:
        """Write nothing when the block ends."""
        self._discarded = True

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._films:
            if kind is None and not self._discarded:
                self._write()

    def _write(self) -> None:
        # libver v110 rather than "latest", so that older h5py and other tools can read it.
        with h5py.File(self.path, "w", libver=("earliest", "v110")) as file:
            file.attrs["format"] = FORMAT
            file.attrs["schema"] = SCHEMA
            file.attrs["code"] = __version__
            for name, value in sorted(self._provenance.items()):
                file.attrs[name] = value if isinstance(value, str | int | float) else json.dumps(value, sort_keys=True)
            self._write_images(file.create_group("images"))
            self._write_studies(file.create_group("studies"))
            self._write_boxes(file.create_group("boxes"))

    def _write_images(self, group: h5py.Group) -> None:
        images = [image for _, image in self._images]
        blob = group.create_dataset("jpeg", (self._offsets[-1],), np.uint8, track_times=False)
        self._films.seek(0)
        at = 0
        while block := self._films.read(_BLOCK):
            blob[at : at + len(block)] = np.frombuffer(block, np.uint8)
            at += len(block)
        _column(group, "offset", np.array(self._offsets, np.int64))
        _column(group, "crc32", np.array(self._crcs, np.uint32))
        _column(group, "study", np.array([row for row, _ in self._images], np.int32))
        _column(group, "width", np.array([i.width for i in images], np.int32))
        _column(group, "height", np.array([i.height for i in images], np.int32))
        _column(group, "phantom", np.array([i.phantom for i in images], np.bool_))
        for name in IMAGE_TEXTS:
            _text(group, name, [getattr(i, name) for i in images])

    def _write_studies(self, group: h5py.Group) -> None:
        counts = [len(study.images) for study in self._studies]
        _column(group, "first", np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64))
        labels = np.full((len(self._studies), len(CHEXPERT_LABELS)), NOT_MENTIONED, np.int8)
        for row, study in enumerate(self._studies):
            for name, value in study.labels.items():
                labels[row, CHEXPERT_LABELS.index(name)] = value
        _column(group, "labels", labels).attrs["names"] = json.dumps(CHEXPERT_LABELS)
        for name in STUDY_TEXTS:
            _text(group, name, [getattr(study, name) for study in self._studies])
        _text(group, "tags", ["|".join(study.tags) for study in self._studies])

    def _write_boxes(self, group: h5py.Group) -> None:
        boxes = [(row, box) for row, (_, image) in enumerate(self._images) for box in image.boxes]
        _column(group, "image", np.array([row for row, _ in boxes], np.int32))
        corners = np.array([(b.x1, b.y1, b.x2, b.y2) for _, b in boxes], np.float64).reshape(-1, 4)
        _column(group, "corners", corners)
        _text(group, "label", [box.label for _, box in boxes])
        _text(group, "phrase", [box.phrase for _, box in boxes])


def _column(group: h5py.Group, name: str, values: np.ndarray) -> h5py.Dataset:
    data = group.create_dataset(name, data=values, track_times=False)
    data.attrs["crc32"] = np.uint32(zlib.crc32(np.ascontiguousarray(values).tobytes()))
    return data


def _text(group: h5py.Group, name: str, texts: Sequence[str]) -> None:
    encoded = [text.encode() for text in texts]
    column = group.create_group(name)
    _column(column, "text", np.frombuffer(b"".join(encoded), np.uint8))
    _column(column, "offset", np.cumsum([0, *map(len, encoded)], dtype=np.int64))
