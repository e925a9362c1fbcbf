"""Images of samples, by reference to their shard: sizes without decoding, and as a model's inputs."""

import io
from pathlib import Path
from typing import Any

from PIL import Image as Pillow

from diagcot.tasks import augmentation
from diagcot.tasks.samples import ImageRef
from diagcot.training.families import family_by_processor
from diagcot.training.families.prepared_images import ImageSource, PreparedImages


class ShardImages:
    """Images of the shards under one root, each shard opened on first use."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._shards: dict[str, Any] = {}

    def _shard(self, ref: ImageRef) -> Any:
        if ref.shard not in self._shards:
            from diagcot.shards import Shard

            path = ref.path(self.root)
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
            return Pillow.open(io.BytesIO(self.jpeg(ref)), formats=["JPEG"]).convert("RGB")
        return self._shard(ref).pixels(ref.row)

    def jpeg(self, ref: ImageRef) -> bytes:
        """The JPEG file, augmented if the reference says so."""
        shard = self._shard(ref)
        data = bytes(shard.jpeg(ref.row))
        if not ref.change:
            return data
        shard.check_image(ref.row)
        return augmentation.augmented_jpeg(data, ref.change)


def prepared(processor: Any, source: ImageSource, cache_mb: int = 1024) -> PreparedImages:
    """Images of `source` as the model of `processor` takes them. cache_mb: MiB of host memory for those that are prepared.

    Raises ValueError for a processor of an unknown family, and ModelError for one whose settings are not supported.
    """
    return family_by_processor(processor).images(processor, source, cache_mb)
