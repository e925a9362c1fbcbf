"""Images of Qwen2-VL, Qwen2.5-VL and Qwen3-VL: patches in a row, as many as the image has."""

from collections.abc import Sequence
from typing import Any

import torch

from diagcot.tasks.samples import ImageRef
from diagcot.training.families import positions
from diagcot.training.families.prepared_images import ImageSource, PreparedImages, Tensors, digest


class QwenImages(PreparedImages):
    """Resized patches are kept as bytes, and only one of the `temporal_patch_size` identical copies."""

    def __init__(self, processor: Any, source: ImageSource, cache_mb: int = 1024) -> None:
        super().__init__(processor, source, cache_mb)
        self._token, self._side = str(processor.image_token), int(processor.image_processor.merge_size)
        self._temporal, self._merge = int(processor.image_processor.temporal_patch_size), self._side**2

    def text(self, ref: ImageRef) -> str:
        """See `PreparedImages.text`."""
        width, height = self.source.size(ref)
        return self._token * (int(self._image_processor.get_number_of_image_patches(height, width)) // self._merge)

    def batch(self, refs: Sequence[ImageRef]) -> Tensors:
        """pixel_values (patches, channels * temporal * patch^2) float32, image_grid_thw (images, 3) and image_keys (images, 2).

        A key is a digest of the pixels and their grid. See also `PreparedImages.batch`.
        """
        if not refs:
            return {}
        kept = [self._kept(ref) for ref in refs]
        values = self._normalised(torch.cat([entry["patches"] for entry in kept]))  # patches, channels, 1, patch^2
        values = values.expand(-1, -1, self._temporal, -1).reshape(len(values), -1)
        grids, keys = (torch.stack([entry[name] for entry in kept]) for name in ("grid", "key"))
        return self._with_sizes({"pixel_values": values, "image_grid_thw": grids, "image_keys": keys})

    def blank(self) -> tuple[Tensors, str]:
        """See `PreparedImages.blank`."""
        side = int(self._image_processor.patch_size) * self._side
        values = -(self._mean / self._std).expand(self._merge, -1, self._temporal, (side * side) // self._merge)
        batch = {
            "pixel_values": values.reshape(self._merge, -1),
            "image_grid_thw": torch.tensor([[1, self._side, self._side]]),
            "image_keys": torch.zeros(1, 2, dtype=torch.long),
        }
        return self._with_sizes(batch), self._token

    def positions(self, visual: Sequence[torch.Tensor], batch: Tensors, shown: Sequence[int]) -> list[torch.Tensor]:
        """See `PreparedImages.positions`: frame, row and column."""
        grids = batch["image_grid_thw"].split(list(shown)) if batch else [torch.empty(0, 3)] * len(visual)
        return [positions.multimodal(row, grid, self._side) for row, grid in zip(visual, grids, strict=True)]

    def _with_sizes(self, batch: Tensors) -> Tensors:
        patches = batch["image_grid_thw"].prod(1)
        return batch | {"image_patches": patches, "image_tokens": patches // self._merge}

    def _prepared(self, image: Any) -> Tensors:
        """Resized patches (patches, channels, 1, patch^2) uint8, the grid (3,) and the key (2,) of one image."""
        features = self._image_processor([image], do_rescale=False, do_normalize=False, return_tensors="pt")
        values = features["pixel_values"]
        values = values.view(len(values), self._mean.shape[1], self._temporal, -1)[:, :, :1]
        values = values.round().to(torch.uint8).contiguous()
        grids = features["image_grid_thw"]
        return {"patches": values, "grid": grids[0], "key": digest(values, grids)}
