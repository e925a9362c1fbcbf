"""Writes a shard: images stream through a scratch file, columns stay in memory; the same input gives the same bytes."""

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from isal.isal_zlib import crc32

from diagcot import __version__
from diagcot.data import likeness
from diagcot.data.errors import DataError
from diagcot.data.pixels import Jpeg
from diagcot.data.study import CHEXPERT_LABELS, Image, Question, Study
from diagcot.jobs.state.files import named
from diagcot.shards.format import hdf5
from diagcot.shards.format.layout import (
    FORMAT,
    IMAGE_TEXTS,
    LEFT_OUT_TEXTS,
    NOT_MENTIONED,
    QUESTION_LISTS,
    QUESTION_TEXTS,
    SCHEMA,
    STUDY_TEXTS,
)

_BLOCK = 16 << 20


@cache
def code() -> str:
    """The version of the code, and a digest of all modules that a shard's contents depend on."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted([*(root / "data").rglob("*.py"), *(root / "shards").rglob("*.py")]):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:12]}"


class ShardWriter:
    """A context manager that writes the file when its block ends without an error, and writes nothing otherwise."""

    def __init__(self, path: Path, **provenance: Any) -> None:
        """`provenance` becomes attributes of the file; a value that is not a number or text is kept as JSON."""
        self.path = path
        self._provenance = provenance
        # It has no name: its errors name the shard, beside which it lies.
        self._jpegs = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115  closed by __exit__
        self._discarded = False
        self._offsets = [0]
        self._crcs: list[int] = []
        self._digests: list[bytes] = []
        self._likenesses: list[bytes] = []
        self._images: list[tuple[int, Image]] = []
        self._studies: list[Study] = []
        self._left_out: list[tuple[str, str, str]] = []

    def add(self, study: Study, jpegs: Sequence[Jpeg]) -> None:
        """Add a study and the JPEGs of `study.images`, in their order. Raises DataError for a text that is not Unicode."""
        for field, text in _texts(study):
            _refuse_surrogates(text, f"{field} of study {_shown(study.key)}")
        row = len(self._studies)
        self._studies.append(study)
        for image, jpeg in zip(study.images, jpegs, strict=True):
            with named(self.path):
                self._jpegs.write(jpeg.data)
            self._offsets.append(self._offsets[-1] + len(jpeg.data))
            self._crcs.append(crc32(jpeg.data))
            self._digests.append(jpeg.sha256 or hashlib.sha256(jpeg.data).digest())
            self._likenesses.append(jpeg.likeness or bytes(likeness.BYTES))
            phantom = image.phantom or jpeg.phantom
            self._images.append((row, replace(image, width=jpeg.width, height=jpeg.height, phantom=phantom)))

    def leave_out(self, study: str, image: str, reason: str) -> None:
        """Record an image that could not be used, by the key of its study and its id. Raises DataError as `add` does."""
        for field, text in zip(LEFT_OUT_TEXTS, (study, image, reason), strict=True):
            _refuse_surrogates(text, f"{field} of an image of study {_shown(study)} that is left out")
        self._left_out.append((study, image, reason))

    def settle_questions(self) -> Iterator[tuple[str, int, list[tuple[str, str]]]]:
        """Drop the questions that cannot be asked of this shard, after all its studies were added.

        Gives for each study that has questions its key, the number of those that stay, and (why, key of what is lacking) of
        the others.
        """
        splits = {study.key: study.split for study in self._studies}
        for row, study in enumerate(self._studies):
            if study.questions:
                lacking = [_lacking(question, study, splits) for question in study.questions]
                kept = tuple(asked for asked, lack in zip(study.questions, lacking, strict=True) if lack is None)
                self._studies[row] = replace(study, questions=kept)
                yield study.key, len(kept), [lack for lack in lacking if lack is not None]

    def describe(self, **provenance: Any) -> None:
        """Add attributes that are known only after the studies were added."""
        self._provenance |= provenance

    def discard(self) -> None:
        """Write nothing when the block ends."""
        self._discarded = True

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with named(self.path), self._jpegs:
            if kind is None and not self._discarded:
                self._write()

    def _write(self) -> None:
        # v110 rather than "latest", so that older h5py and other tools can read it, and rather than "earliest", since
        # its metadata has checksums.
        with hdf5.opened(self.path, "w", libver=("v110", "v110")) as file:
            about = {"format": FORMAT, "schema": SCHEMA, "code": code()} | dict(sorted(self._provenance.items()))
            for name, value in about.items():
                _attribute(file, name, value)
            self._write_images(file.create_group("images"))
            self._write_studies(file.create_group("studies"))
            self._write_boxes(file.create_group("boxes"))
            if any(study.questions for study in self._studies):
                self._write_questions(file.create_group("questions"))
            group = file.create_group("left_out")
            for place, name in enumerate(LEFT_OUT_TEXTS):
                _text(group, name, [row[place] for row in self._left_out])

    def _write_images(self, group: h5py.Group) -> None:
        images = [image for _, image in self._images]
        blob = group.create_dataset("jpeg", (self._offsets[-1],), np.uint8, track_times=False)
        self._jpegs.seek(0)
        at = 0
        while block := self._jpegs.read(_BLOCK):
            blob[at : at + len(block)] = np.frombuffer(block, np.uint8)
            at += len(block)
        _column(group, "offset", np.array(self._offsets, np.int64))
        _column(group, "crc32", np.array(self._crcs, np.uint32))
        digests = np.frombuffer(b"".join(self._digests), np.uint8).reshape(-1, 32)
        _column(group, "sha256", digests)
        likenesses = np.frombuffer(b"".join(self._likenesses), np.uint8).reshape(-1, likeness.BYTES)
        _column(group, "likeness", likenesses)
        _column(group, "study", np.array([row for row, _ in self._images], np.int32))
        _column(group, "width", np.array([i.width for i in images], np.uint16))
        _column(group, "height", np.array([i.height for i in images], np.uint16))
        _column(group, "phantom", np.array([i.phantom for i in images], np.bool_))
        for name in IMAGE_TEXTS:
            _text(group, name, [getattr(i, name) for i in images])

    def _write_studies(self, group: h5py.Group) -> None:
        counts = [len(study.images) for study in self._studies]
        _column(group, "first", np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int32))
        labels = np.full((len(self._studies), len(CHEXPERT_LABELS)), NOT_MENTIONED, np.int8)
        for row, study in enumerate(self._studies):
            for name, value in study.labels.items():
                labels[row, CHEXPERT_LABELS.index(name)] = value
        _attribute(_column(group, "labels", labels), "names", CHEXPERT_LABELS)
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

    def _write_questions(self, group: h5py.Group) -> None:
        asked = [(row, question) for row, study in enumerate(self._studies) for question in study.questions]
        _column(group, "study", np.array([row for row, _ in asked], np.int32))
        for name in QUESTION_TEXTS:
            _text(group, name, [getattr(question, name) for _, question in asked])
        for name in QUESTION_LISTS:
            _text(group, name, ["\n".join(getattr(question, name)) for _, question in asked])


NO_IMAGE = "the image that it is about is not in the shards"
NO_EARLIER = "the earlier study that it compares with is not in the shards, or in another split"


def _lacking(question: Question, study: Study, splits: Mapping[str, str]) -> tuple[str, str] | None:
    """Why a question cannot be asked, and the key of the image or study that it lacks. splits: study -> split."""
    if question.image and question.image not in {image.id for image in study.images}:
        return NO_IMAGE, f"{study.key}/{question.image}"
    earlier = f"{study.dataset}/{question.earlier}"
    if question.earlier and splits.get(earlier) != study.split:
        return NO_EARLIER, earlier
    return None


def _texts(study: Study) -> Iterator[tuple[str, str]]:
    """Every text of a study that a shard keeps, after the name of its field."""
    for name in STUDY_TEXTS:
        yield name, getattr(study, name)
    yield from (("tags", tag) for tag in study.tags)
    for place, image in enumerate(study.images):
        yield from ((f"{name} of image {place}", getattr(image, name)) for name in IMAGE_TEXTS)
        for box in image.boxes:
            yield from ((f"{name} of a box of image {place}", getattr(box, name)) for name in ("label", "phrase"))
    for question in study.questions:
        yield from ((f"{name} of a question", getattr(question, name)) for name in QUESTION_TEXTS)
        yield from ((f"{name} of a question", text) for name in QUESTION_LISTS for text in getattr(question, name))


def _refuse_surrogates(text: str, place: str) -> None:
    """UTF-8 has no bytes for a lone surrogate, which a file name or a table in another encoding can bring in."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{place}: character {error.start + 1} is half a surrogate pair, which is no text; correct the source, or read it"
            " in its own encoding"
        ) from None


def _shown(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _attribute(place: h5py.HLObject, name: str, value: Any) -> None:
    """Texts get a fixed length, which keeps them in the header with its checksum; HDF5's heap has no checksum."""
    if not isinstance(value, int | float):
        value = np.bytes_(value if isinstance(value, str) else json.dumps(value, sort_keys=True))  # ASCII
    place.attrs[name] = value


def _column(group: h5py.Group, name: str, values: np.ndarray) -> h5py.Dataset:
    data = group.create_dataset(name, data=values, track_times=False)
    data.attrs["crc32"] = np.uint32(crc32(np.ascontiguousarray(values).tobytes()))
    return data


def _text(group: h5py.Group, name: str, texts: Sequence[str]) -> None:
    encoded = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    if offsets[-1] > np.iinfo(np.uint32).max:
        raise DataError(f"{group.name}/{name} holds more than 4 GiB of text: give the stage more `shards`")
    column = group.create_group(name)
    _column(column, "text", np.frombuffer(b"".join(encoded), np.uint8))
    _column(column, "offset", offsets.astype(np.uint32))
