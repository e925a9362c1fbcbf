"""Shards of phantom images for the searches to read."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Picture

from diagcot.data.phantom.drawing import draw
from diagcot.data.phantom.patients import visits
from diagcot.data.pixels import Jpeg
from diagcot.data.study import Image, Study
from diagcot.shards.writer import ShardWriter

DRAWN = 24


def write(path: Path, count: int, size: int, seed: int = 0, distinct: int = 10**9) -> Path:
    """A shard of `count` training studies with a frontal image of `size` pixels each; images repeat after `distinct`.

    Films are drawn for few patients, since that takes long, and moved by some pixels for all others.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    patients = visits(min(count, DRAWN), seed)
    drawn = [np.asarray(draw(str(n), one.findings, "PA", size, seed).image) for n, one in enumerate(patients)]
    images: list[Jpeg] = []
    with ShardWriter(path) as writer:
        for n in range(count):
            if n < distinct:
                images.append(_jpeg(np.roll(drawn[n % len(drawn)], n, axis=1)))
            findings, impression = patients[n % len(patients)].findings.report()
            name = f"{seed}-{n:06d}"
            image = Image(name, "PA", size, size, phantom=True)
            study = Study("phantom", name, name, "train", f"Image {n}. {findings}", impression, images=(image,))
            writer.add(study, [images[n % distinct]])
    return path


def _jpeg(pixels: Any) -> Jpeg:
    out = io.BytesIO()
    Picture.fromarray(pixels).save(out, "JPEG", quality=85)
    return Jpeg(out.getvalue(), pixels.shape[1], pixels.shape[0], True)
