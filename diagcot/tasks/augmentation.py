"""Changed copies of films with boxes, the boxes changed with them, as DiagCoT trains grounding on (method.md 2.4).

A change is a word of `CHANGES` in the reference to a film; the film is changed when it is read, and nothing is stored.
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
from diagcot.tasks.prompts import grounding_answer
from diagcot.tasks.samples import ImageRef, Sample

# How strong the release made its changes, but for the angles, is not known.
CHANGES = (
    "contrast 0.8", "contrast 1.2", "brightness 0.8", "brightness 1.2", "noise 8", "rotate -10", "rotate -5", "rotate 5",
    "rotate 10", "flip",
)  # fmt: skip


def film(jpeg: bytes, change: str) -> bytes:
    """The film as a JPEG of the same size; noise is a function of the film."""
    kind, _, value = change.partition(" ")
    picture = Pillow.open(io.BytesIO(jpeg)).convert("L")
    if kind == "contrast":
        picture = ImageEnhance.Contrast(picture).enhance(float(value))
    elif kind == "brightness":
        picture = ImageEnhance.Brightness(picture).enhance(float(value))
    elif kind == "noise":
        digest = int.from_bytes(hashlib.sha256(jpeg).digest()[:8], "big")
        noise = np.random.default_rng(digest).normal(0, float(value), (picture.height, picture.width))
        picture = Pillow.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8))
    elif kind == "rotate":
        picture = picture.rotate(float(value), Pillow.Resampling.BILINEAR)
    elif kind == "flip":
        picture = ImageOps.mirror(picture)
    else:
        raise ValueError(f"unknown change of a film {change!r}; known: {', '.join(CHANGES)}")
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=95)
    return out.getvalue()


def box(given: Box, change: str, width: int, height: int) -> Box:
    """The upright box around the changed one, cut at the edges of a film of `width` x `height` pixels."""
    kind, _, value = change.partition(" ")
    if kind == "flip":
        return replace(given, x1=1 - given.x2, x2=1 - given.x1)
    if kind != "rotate":
        return given
    cos, sin = math.cos(math.radians(float(value))), math.sin(math.radians(float(value)))  # counter-clockwise
    corners = [((x - 0.5) * width, (y - 0.5) * height) for x in (given.x1, given.x2) for y in (given.y1, given.y2)]
    xs = [min(1.0, max(0.0, 0.5 + (x * cos + y * sin) / width)) for x, y in corners]
    ys = [min(1.0, max(0.0, 0.5 + (y * cos - x * sin) / height)) for x, y in corners]
    return replace(given, x1=min(xs), y1=min(ys), x2=max(xs), y2=max(ys))


def copies(sample: Sample, count: int, seed: int, size: Callable[[ImageRef], tuple[int, int]]) -> Iterator[Sample]:
    """`count` changed copies of a grounding sample with boxes, of as many different changes; none of another one.

    size: width and height of a film in pixels.
    """
    if sample.task != "grounding" or not sample.meta.get("boxes"):
        return
    (ref,), label = sample.images, str(sample.meta["label"])
    for change in random.Random(f"{seed}/{sample.id}").sample(CHANGES, count):
        boxes = [box(Box(label, *corners), change, *size(ref)) for corners in sample.meta["boxes"]]
        answer = ("assistant", grounding_answer(label.lower(), boxes))
        yield replace(
            sample,
            id=f"{sample.id}:{change}",
            images=(replace(ref, change=change),),
            messages=(*sample.messages[:-1], answer),
            meta=sample.meta | {"boxes": [[one.x1, one.y1, one.x2, one.y2] for one in boxes]},
        )
