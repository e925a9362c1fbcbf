"""Images that rows name: each is converted once, known by the digest of its file, and kept on disk until it is in the shard."""

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from diagcot.data.errors import ImageError
from diagcot.data.pixels import Jpeg, content, convert
from diagcot.exchange.forms.form import ImageFile
from diagcot.jobs.state.files import named


@dataclass(frozen=True)
class Stored:
    """An image on disk: the path that named it first, its digests and flags (`jpeg`, without the data), and its place."""

    path: str
    jpeg: Jpeg
    start: int
    size: int


class ImageStore:
    """Images by the SHA-256 of their files. Memory: about 500 bytes for each image and path."""

    def __init__(self, folder: Path, pool: ThreadPoolExecutor, image_size: int, jpeg_quality: int) -> None:
        self._folder = folder
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  closed by `opened`
        self._pool, self._size, self._quality = pool, image_size, jpeg_quality
        self._known: dict[str, str] = {}  # path -> key, or why it cannot be used
        self._stored: dict[str, Stored] = {}
        self.bad: dict[str, tuple[str, str]] = {}  # key -> path that named the image first, and why it cannot be used

    @classmethod
    @contextmanager
    def opened(
        cls, folder: Path, pool: ThreadPoolExecutor, image_size: int, jpeg_quality: int
    ) -> Iterator["ImageStore"]:
        """A store whose file is removed at the end."""
        store = cls(folder, pool, image_size, jpeg_quality)
        with store._file:
            yield store

    def __getitem__(self, key: str) -> Stored:
        return self._stored[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def add(self, images: Sequence[ImageFile]) -> list[str]:
        """The key of each image; an image whose key is in `bad` cannot be used."""
        new = list({image.path: image for image in images if not image.data and image.path not in self._known}.values())
        new += [image for image in images if image.data]
        keys = []
        for image, (key, found) in zip(new, self._pool.map(self._converted, new), strict=True):
            keys.append(key)
            if not image.data:
                self._known[image.path] = key
            if isinstance(found, str):
                self.bad.setdefault(key, (image.path, found))
            elif key not in self._stored:
                with named(self._folder):  # the file has no name
                    start = self._file.seek(0, 2)
                    self._file.write(found.data)
                self._stored[key] = Stored(image.path, replace(found, data=b""), start, len(found.data))
        embedded = iter(keys[len(new) - sum(bool(image.data) for image in images) :])
        return [next(embedded) if image.data else self._known[image.path] for image in images]

    def jpeg(self, key: str) -> Jpeg:
        """An image with its data."""
        stored = self._stored[key]
        with named(self._folder):
            self._file.seek(stored.start)
        return replace(stored.jpeg, data=self._file.read(stored.size))

    def _converted(self, image: ImageFile) -> tuple[str, Jpeg | str]:
        """The key of an image, and the converted image, or why it cannot be used."""
        try:
            raw = image.data or content(Path(image.path))
        except ImageError as error:
            return image.path, str(error)
        digest = hashlib.sha256(raw).digest()
        if digest.hex() in self._stored:
            return digest.hex(), self._stored[digest.hex()].jpeg  # not stored again
        try:
            return digest.hex(), replace(convert(raw, self._size, self._quality, "it"), sha256=digest)
        except ImageError as error:
            return digest.hex(), str(error)
