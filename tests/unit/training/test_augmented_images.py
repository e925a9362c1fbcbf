"""Training reads the changed copies of images that the server reads."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from diagcot.tasks.samples import ImageRef


def test_training_sees_what_the_server_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.full((200, 300), 90, np.uint8)
    pixels[100:160, 60:90] = 200
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=95)
    image = out.getvalue()

    class Shard:
        jpeg: Callable[[int], bytes] = staticmethod(lambda row: image)
        check_image: Callable[[int], None] = staticmethod(lambda row: None)

    from diagcot.training.data.images import ShardImages

    monkeypatch.setattr(ShardImages, "_shard", lambda self, ref: Shard)
    source, ref = ShardImages(None), ImageRef("a.h5", 3, "flip")  # type: ignore[arg-type]
    shown = Image.open(io.BytesIO(source.jpeg(ref))).convert("RGB")
    assert np.array_equal(np.asarray(source.pixels(ref)), np.asarray(shown))
