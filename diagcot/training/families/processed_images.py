"""Images of one size, or tiles of it, exactly as a family's processor makes them."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image as Pillow

from diagcot.tasks.samples import ImageRef
from diagcot.training.families.prepared_images import ImageSource, PreparedImages, Tensors

BLANK = (28, 28)  # pixels of the black image


class ProcessedImages(PreparedImages):
    """Each image is prepared alone, as a server does it, so that it does not depend on the others of its sample."""

    further: Sequence[str] = ()
    """Tensors beside the pixels that the model takes of each image."""

    def __init__(self, processor: Any, source: ImageSource, cache_mb: int, image_token: str, patch: int) -> None:
        """patch: pixels of the side of a patch."""
        super().__init__(processor, source, cache_mb)
        self._token, self._patch = image_token, patch
        self._options = dict(processor.valid_processor_kwargs._defaults.get("images_kwargs", {}))

    def text(self, ref: ImageRef) -> str:
        """See `PreparedImages.text`."""
        width, height = self.source.size(ref)
        return self.text_of(height, width)

    @abstractmethod
    def text_of(self, height: int, width: int) -> str:
        """`text` of an image of this size."""

    def batch(self, refs: Sequence[ImageRef]) -> Tensors:
        """pixel_values (tiles, channels, rows, columns) float32, and what `further` names. See also `PreparedImages.batch`."""
        if not refs:
            return {}
        return self._joined([self._kept(ref) for ref in refs], [self.text(ref) for ref in refs])

    def blank(self) -> tuple[Tensors, str]:
        """See `PreparedImages.blank`."""
        text = self.text_of(*reversed(BLANK))
        return self._joined([self._prepared(Pillow.new("RGB", BLANK))], [text]), text

    def _joined(self, entries: Sequence[Tensors], texts: Sequence[str]) -> Tensors:
        pixels = torch.cat([entry["pixels"] for entry in entries])
        patches = (pixels.shape[-1] // self._patch) * (pixels.shape[-2] // self._patch)
        return {
            "pixel_values": self._normalised(pixels),
            **{name: torch.cat([entry[name] for entry in entries]) for name in self.further},
            "image_patches": torch.tensor([patches * len(entry["pixels"]) for entry in entries]),
            "image_tokens": torch.tensor([text.count(self._token) for text in texts]),
        }

    def _prepared(self, image: Any) -> Tensors:
        """Resized pixels (tiles, channels, rows, columns) uint8 of one image, and what `further` names."""
        raw = {"do_rescale": False, "do_normalize": False, "return_tensors": "pt"}
        features = self._image_processor([image], **self._options, **raw)
        pixels = features["pixel_values"]
        pixels = pixels.flatten(0, pixels.ndim - 4).round().to(torch.uint8).contiguous()
        return {"pixels": pixels, **{name: features[name] for name in self.further}}
