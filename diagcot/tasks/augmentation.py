"""Changed copies of images with boxes, with the boxes changed alike: DiagCoT's augmentation of the grounding task.

The kinds of change are those in the grounding data of github.com/TMLSIAT/DiagCoT-main (DiagCoT, arXiv:2509.06409). A
change is a word of `CHANGES` in the reference to an image. It is applied when the image is read; nothing is stored.
"""

import hashlib
import io
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from PIL import Image as Pillow
from PIL import ImageEnhance, ImageOps

from diagcot.data.study import Box
from diagcot.tasks.prompts import Layout, grounding_answer
from diagcot.tasks.samples import ImageRef, Sample

# The angles are those of the release. How strong its other changes were is not known.
CHANGES = (
    "contrast 0.8", "contrast 1.2", "brightness 0.8", "brightness 1.2", "noise 8", "rotate -10", "rotate -5", "rotate 5",
    "rotate 10", "flip",
)  # fmt: skip


def augmented_jpeg(jpeg: bytes, change: str) -> bytes:
    """The changed image as a JPEG of the same size. Noise is fixed by the bytes of the image.

    Raises ValueError for a change that is not known.
    """
    kind, _, value = change.partition(" ")
    image = Pillow.open(io.BytesIO(jpeg), formats=["JPEG"]).convert("L")
    if kind == "contrast":
        image = ImageEnhance.Contrast(image).enhance(float(value))
    elif kind == "brightness":
        image = ImageEnhance.Brightness(image).enhance(float(value))
    elif kind == "noise":
        digest = int.from_bytes(hashlib.sha256(jpeg).digest()[:8], "big")
        noise = np.random.default_rng(digest).normal(0, float(value), (image.height, image.width))
        image = Pillow.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))
    elif kind == "rotate":
        image = image.rotate(float(value), Pillow.Resampling.BILINEAR)
    elif kind == "flip":
        image = ImageOps.mirror(image)
    else:
        raise ValueError(f"unknown change of an image {change!r}; known: {', '.join(CHANGES)}")
    out = io.BytesIO()
    image.save(out, "JPEG", quality=95)
    return out.getvalue()


def augmented_box(box: Box, change: str, width: int, height: int) -> Box:
    """The upright box around the changed box, cut at the edges of an image of `width` x `height` pixels."""
    kind, _, value = change.partition(" ")
    if kind == "flip":
        return replace(box, x1=1 - box.x2, x2=1 - box.x1)
    if kind != "rotate":
        return box
    cos, sin = math.cos(math.radians(float(value))), math.sin(math.radians(float(value)))  # counter-clockwise
    corners = [((x - 0.5) * width, (y - 0.5) * height) for x in (box.x1, box.x2) for y in (box.y1, box.y2)]
    xs = [min(1.0, max(0.0, 0.5 + (x * cos + y * sin) / width)) for x, y in corners]
    ys = [min(1.0, max(0.0, 0.5 + (y * cos - x * sin) / height)) for x, y in corners]
    return replace(box, x1=min(xs), y1=min(ys), x2=max(xs), y2=max(ys))


def augmented_copies(
    sample: Sample, count: int, seed: int, size: Callable[[ImageRef], tuple[int, int]], layout: Layout = "default"
) -> Iterator[Sample]:
    """`count` copies of a grounding sample with boxes, each with another change; nothing for any other sample.

    size: gives the width and height of an image in pixels. layout: of the answers.
    """
    if sample.task != "grounding" or not sample.meta.get("boxes"):
        return
    (ref,), label = sample.images, str(sample.meta["label"])
    for change in random.Random(f"{seed}/{sample.id}").sample(CHANGES, count):
        boxes = [augmented_box(Box(label, *corners), change, *size(ref)) for corners in sample.meta["boxes"]]
        answer = ("assistant", grounding_answer(label.lower(), boxes, layout))
        yield replace(
            sample,
            id=f"{sample.id}:{change}",
            images=(replace(ref, change=change),),
            messages=(*sample.messages[:-1], answer),
            meta=sample.meta | {"boxes": [[box.x1, box.y1, box.x2, box.y2] for box in boxes]},
        )
