"""Images of samples, by reference to their shard: sizes without decoding, prepared pixels from a bounded cache."""

import hashlib
import io
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image as Pillow

from diagcot.jobs.state import reading
from diagcot.tasks import augmentation
from diagcot.tasks.samples import ImageRef


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


class ShardImages:
    """Images of the shards under one root, each shard opened on first use."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._shards: dict[str, Any] = {}

    def _shard(self, ref: ImageRef) -> Any:
        if ref.shard not in self._shards:
            from diagcot.shards import Shard

            path = self.root / ref.shard
            if not path.is_file():
                raise FileNotFoundError(f"shard {ref.shard} is not under {self.root}; run the shard stage again")
            self._shards[ref.shard] = Shard(path)
        return self._shards[ref.shard]

    def size(self, ref: ImageRef) -> tuple[int, int]:
        """Width and height in pixels."""
        image = self._shard(ref).image(ref.row)
        return image.width, image.height

    def pixels(self, ref: ImageRef) -> Any:
        """The PIL image, mode RGB; an augmented one as a server sees it."""
        if ref.change:
            return Pillow.open(io.BytesIO(self.jpeg(ref))).convert("RGB")
        return self._shard(ref).pixels(ref.row)

    def jpeg(self, ref: ImageRef) -> bytes:
        """The JPEG file, augmented if the reference says so."""
        data = bytes(self._shard(ref).jpeg(ref.row))
        return augmentation.augmented_jpeg(data, ref.change) if ref.change else data


class PreparedImages:
    """Turns references into a model's pixel values by the model's own image processor.

    Resizing costs most, so resized patches are cached as bytes: before rescaling and normalisation, which the processor
    defines and which are repeated here on the batch, and only one of the `temporal_patch_size` identical copies.

    cache_mb: MiB of host memory for the cache.
    """

    def __init__(self, image_processor: Any, source: ImageSource, cache_mb: int = 1024) -> None:
        self.processor = image_processor
        self.source = source
        self._free = cache_mb * 2**20
        self._cache: OrderedDict[ImageRef, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = OrderedDict()
        self._lock = threading.Lock()
        self._merge = int(image_processor.merge_size) ** 2
        self._temporal = int(image_processor.temporal_patch_size)
        mean = torch.tensor(image_processor.image_mean, dtype=torch.float32)
        std = torch.tensor(image_processor.image_std, dtype=torch.float32)
        self._mean, self._std = mean.view(1, -1, 1, 1), std.view(1, -1, 1, 1)
        self._scale = float(image_processor.rescale_factor)

    def tokens(self, ref: ImageRef) -> int:
        """Visual tokens of an image after the merger."""
        width, height = self.source.size(ref)
        return int(self.processor.get_number_of_image_patches(height, width)) // self._merge

    def batch(self, refs: Sequence[ImageRef]) -> dict[str, torch.Tensor]:
        """pixel_values (patches, channels * temporal * patch^2) float32, image_grid_thw (images, 3) and image_keys (images, 2).

        A key is a digest of the pixels and their grid. Empty without images.
        """
        if not refs:
            return {}
        prepared = [self._patches(ref) for ref in refs]
        raw = torch.cat([patches for patches, _, _ in prepared]).float()  # patches, channels, 1, patch^2
        values = (raw * self._scale - self._mean) / self._std
        values = values.expand(-1, -1, self._temporal, -1).reshape(len(values), -1)
        grids, keys = (torch.stack([entry[number] for entry in prepared]) for number in (1, 2))
        return {"pixel_values": values, "image_grid_thw": grids, "image_keys": keys}

    def blank(self) -> dict[str, torch.Tensor]:
        """`batch` of one black image of the smallest possible size."""
        side = int(self.processor.patch_size) * int(self.processor.merge_size)
        values = -(self._mean / self._std).expand(self._merge, -1, self._temporal, (side * side) // self._merge)
        grid = [1, int(self.processor.merge_size), int(self.processor.merge_size)]
        pixels = values.reshape(self._merge, -1)
        return {
            "pixel_values": pixels,
            "image_grid_thw": torch.tensor([grid]),
            "image_keys": torch.zeros(1, 2, dtype=torch.long),
        }

    def _patches(self, ref: ImageRef) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Resized patches (patches, channels, 1, patch^2) uint8, the grid (3,) and the key (2,) of one image."""
        with self._lock:
            if ref in self._cache:
                self._cache.move_to_end(ref)
                return self._cache[ref]
        try:
            image = self.source.pixels(ref)
            features = self.processor([image], do_rescale=False, do_normalize=False, return_tensors="pt")
        except (OSError, ValueError) as error:
            reading.check_storage(ref.shard, error)
            raise ValueError(f"image {ref.row} of shard {ref.shard} cannot be read: {error}") from error
        values = features["pixel_values"]
        channels = self._mean.shape[1]
        values = values.view(len(values), channels, self._temporal, -1)[:, :, :1].round().to(torch.uint8).contiguous()
        entry = values, features["image_grid_thw"][0], _digest(values, features["image_grid_thw"])
        with self._lock:
            self._cache[ref] = entry
            self._free -= values.numel()
            while self._free < 0 and len(self._cache) > 1:
                _, (dropped, _, _) = self._cache.popitem(last=False)
                self._free += dropped.numel()
        return entry


def _digest(values: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """128 bits of the pixels and their grid, as two numbers."""
    total = hashlib.blake2b(digest_size=16)
    for tensor in (values, grid):
        total.update(tensor.numpy().tobytes())
    return torch.frombuffer(bytearray(total.digest()), dtype=torch.int64)
