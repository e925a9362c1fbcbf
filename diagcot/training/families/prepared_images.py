"""Images of samples as a model's inputs: prepared by its processor, from a bounded cache."""

import hashlib
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from diagcot.jobs.state import reading
from diagcot.tasks.samples import ImageRef

Tensors = dict[str, torch.Tensor]


class ImageSource(Protocol):
    """Where images come from."""

    def size(self, ref: ImageRef) -> tuple[int, int]:
        """Width and height in pixels."""
        ...

    def pixels(self, ref: ImageRef) -> Any:
        """The PIL image, mode RGB."""
        ...

    def jpeg(self, ref: ImageRef) -> bytes:
        """The JPEG file that a server is given."""
        ...


class PreparedImages(ABC):
    """Turns references into a model's inputs by the model's own processor. What was prepared is kept in a bounded cache."""

    def __init__(self, processor: Any, source: ImageSource, cache_mb: int = 1024) -> None:
        """cache_mb: MiB of host memory for the cache."""
        self.processor, self.source = processor, source
        self._free = cache_mb * 2**20
        self._cache: OrderedDict[ImageRef, Tensors] = OrderedDict()
        self._lock = threading.Lock()
        self._image_processor = processor.image_processor
        # Resizing costs most, so resized images are kept as bytes: before rescaling and normalisation, which the processor
        # defines and which are repeated here on the batch.
        mean, std = (torch.tensor(getattr(self._image_processor, f"image_{name}")).float() for name in ("mean", "std"))
        self._mean, self._std = mean.view(1, -1, 1, 1), std.view(1, -1, 1, 1)
        self._scale = float(self._image_processor.rescale_factor)

    @abstractmethod
    def text(self, ref: ImageRef) -> str:
        """What replaces an image's mark in a prompt: its visual tokens, and the tokens that the family puts around them."""

    @abstractmethod
    def batch(self, refs: Sequence[ImageRef]) -> Tensors:
        """The model's inputs of these images, with image_patches and image_tokens (images,) beside them; empty without images.

        image_patches: of the vision tower. image_tokens: visual tokens of the language model. Both stay in host memory.
        """

    @abstractmethod
    def blank(self) -> tuple[Tensors, str]:
        """`batch` and `text` of one black image, the smallest possible."""

    def positions(self, visual: Sequence[torch.Tensor], batch: Tensors, shown: Sequence[int]) -> list[torch.Tensor]:
        """Positions (axes, tokens) int64 of each sequence.

        visual: for each sequence (tokens,), whether a token is visual. batch: of all images. shown: images of each sequence.
        """
        return [torch.arange(len(row))[None] for row in visual]

    def _kept(self, ref: ImageRef) -> Tensors:
        """An image from the cache, or prepared now. Raises ValueError that names an image that cannot be read."""
        with self._lock:
            if ref in self._cache:
                self._cache.move_to_end(ref)
                return self._cache[ref]
        try:
            entry = self._prepared(self.source.pixels(ref))
        except (OSError, ValueError) as error:
            reading.check_storage(ref.shard, error)
            raise ValueError(f"image {ref.row} of shard {ref.shard} cannot be read: {error}") from error
        with self._lock:
            self._cache[ref] = entry
            self._free -= _bytes(entry)
            while self._free < 0 and len(self._cache) > 1:
                _, dropped = self._cache.popitem(last=False)
                self._free += _bytes(dropped)
        return entry

    @abstractmethod
    def _prepared(self, image: Any) -> Tensors:
        """What is kept of a PIL image."""

    def _normalised(self, values: torch.Tensor) -> torch.Tensor:
        """Bytes (any, channels, rows, columns) as float32 in the range that the model takes."""
        return (values.float() * self._scale - self._mean) / self._std


def _bytes(entry: Mapping[str, torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in entry.values())


def digest(*tensors: torch.Tensor) -> torch.Tensor:
    """128 bits of the values of tensors, as two numbers."""
    total = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        total.update(tensor.numpy().tobytes())
    return torch.frombuffer(bytearray(total.digest()), dtype=torch.int64)
