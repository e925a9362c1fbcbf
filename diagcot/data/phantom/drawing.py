"""Phantom images of a study: pixels and exact boxes from findings, fixed by the study id and the seed."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image as Pillow

from diagcot.data.phantom import frontal, lateral
from diagcot.data.phantom.anatomy import Build
from diagcot.data.phantom.canvas import bounds, unit
from diagcot.data.phantom.findings import Findings
from diagcot.data.pixels import PHANTOM_COMMENT
from diagcot.data.seeded import generator
from diagcot.data.study import Box

VIEWS = ("PA", "LATERAL")
SIZE = 112
_DRAW = {"PA": frontal.draw, "LATERAL": lateral.draw}


@dataclass(frozen=True)
class PhantomImage:
    """A drawn X-ray: a grey image of size x size pixels and the boxes of its findings."""

    view: str
    image: Pillow.Image
    boxes: tuple[Box, ...]

    def jpeg(self, quality: int = 90) -> bytes:
        """JPEG bytes that carry the phantom comment."""
        out = io.BytesIO()
        self.image.save(out, "JPEG", quality=quality, comment=PHANTOM_COMMENT)
        return out.getvalue()


def draw(study: str, findings: Findings, view: str = "PA", size: int = SIZE, seed: int = 0) -> PhantomImage:
    """Draw the `view` (one of `VIEWS`) of `study`; both views of a study show the same invented patient."""
    build = Build.draw(generator("build", seed, study), findings.heart)
    rng = generator("film", seed, study, view)  # the word decides the noise of all phantoms drawn so far
    brightness, masks = _DRAW[view](size, build, findings, rng)
    noise = rng.random((size, size), dtype=np.float32) - 0.5
    brightness += (3.46 * build.noise) * noise  # the standard deviation of uniform noise is 1 / sqrt(12)
    boxes = []
    for label, mask in masks:
        corners = bounds(mask)
        if corners:
            boxes.append(Box(label, *corners))
    return PhantomImage(view, Pillow.fromarray((unit(brightness) * 255).astype(np.uint8)), tuple(boxes))
