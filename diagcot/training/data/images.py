"""Films of samples, by reference to their shard: sizes without decoding, prepared pixels from a bounded memory."""

import io
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image as Pillow

from diagcot.tasks import augmentation
from diagcot.tasks.samples import ImageRef


class Source(Protocol):
    """Where films come from."""

    def size(self, ref: ImageRef) -> tuple[int, int]: ...  # width, height in pixels
    def pixels(self, ref: ImageRef) -> Any: ...  # PIL image, mode RGB
    def jpeg(self, ref: ImageRef) -> bytes: ...  # as a server takes it


class ShardSource:
    """Films of the shards under one root, each shard opened on first use."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._open: dict[str, Any] = {}

    def _shard(self, ref: ImageRef) -> Any:
        if ref.shard not in self._open:
            from diagcot.shards import Shard

            path = self.root / ref.shard
            if not path.is_file():
                raise FileNotFoundError(f"shard {ref.shard} is not under {self.root}; run the shard stage again")
            self._open[ref.shard] = Shard(path)
        return self._open[ref.shard]

    def size(self, ref: ImageRef) -> tuple[int, int]:
        image = self._shard(ref).image(ref.row)
        return image.width, image.height

    def pixels(self, ref: ImageRef) -> Any:
        if ref.change:  # what a server sees
            return Pillow.open(io.BytesIO(self.jpeg(ref))).convert("RGB")
        return self._shard(ref).pixels(ref.row)

    def jpeg(self, ref: ImageRef) -> bytes:
        found = bytes(self._shard(ref).jpeg(ref.row))
        return augmentation.augmented_jpeg(found, ref.change) if ref.change else found


class Films:
    """Turns references into a model's pixel values by the model's own image processor.

    Resizing costs most, so resized patches are kept as bytes (before rescaling and normalisation, which the processor
    defines and which are repeated here on the batch) and one of the `temporal_patch_size` identical copies only.
    """

    def __init__(self, image_processor: Any, source: Source, cache_mb: int = 1024) -> None:
        self.processor = image_processor
        self.source = source
        self._room = cache_mb * 2**20
        self._kept: OrderedDict[ImageRef, tuple[torch.Tensor, torch.Tensor]] = OrderedDict()
        self._lock = threading.Lock()
        self._merge = int(image_processor.merge_size) ** 2
        self._temporal = int(image_processor.temporal_patch_size)
        mean = torch.tensor(image_processor.image_mean, dtype=torch.float32)
        std = torch.tensor(image_processor.image_std, dtype=torch.float32)
        self._mean, self._std = mean.view(1, -1, 1, 1), std.view(1, -1, 1, 1)
        self._scale = float(image_processor.rescale_factor)

    def tokens(self, ref: ImageRef) -> int:
        """Visual tokens of a film after the merger."""
        width, height = self.source.size(ref)
        return int(self.processor.get_number_of_image_patches(height, width)) // self._merge

    def batch(self, refs: Sequence[ImageRef]) -> dict[str, torch.Tensor]:
        """pixel_values (patches, channels * temporal * patch^2) float32 and image_grid_thw (films, 3)."""
        if not refs:
            return {}
        found = [self._patches(ref) for ref in refs]
        raw = torch.cat([patches for patches, _ in found]).float()  # patches, channels, 1, patch^2
        values = (raw * self._scale - self._mean) / self._std
        values = values.expand(-1, -1, self._temporal, -1).reshape(len(values), -1)
        return {"pixel_values": values, "image_grid_thw": torch.stack([grid for _, grid in found])}

    def blank(self) -> dict[str, torch.Tensor]:
        """`batch` of one black film, of the smallest size there is."""
        side = int(self.processor.patch_size) * int(self.processor.merge_size)
        values = -(self._mean / self._std).expand(self._merge, -1, self._temporal, (side * side) // self._merge)
        grid = [1, int(self.processor.merge_size), int(self.processor.merge_size)]
        return {"pixel_values": values.reshape(self._merge, -1), "image_grid_thw": torch.tensor([grid])}

    def _patches(self, ref: ImageRef) -> tuple[torch.Tensor, torch.Tensor]:
        with self._lock:
            if ref in self._kept:
                self._kept.move_to_end(ref)
                return self._kept[ref]
        try:
            picture = self.source.pixels(ref)
            made = self.processor([picture], do_rescale=False, do_normalize=False, return_tensors="pt")
        except (OSError, ValueError) as error:
            raise ValueError(f"film {ref.row} of shard {ref.shard} cannot be read: {error}") from error
        values = made["pixel_values"]
        channels = self._mean.shape[1]
        values = values.view(len(values), channels, self._temporal, -1)[:, :, :1].round().to(torch.uint8).contiguous()
        entry = values, made["image_grid_thw"][0]
        with self._lock:
            self._kept[ref] = entry
            self._room -= values.numel()
            while self._room < 0 and len(self._kept) > 1:
                _, (dropped, _) = self._kept.popitem(last=False)
                self._room += dropped.numel()
        return entry
