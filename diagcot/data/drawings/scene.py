"""A drawing: up to three shapes on a grid of nine places, their description, and their exact boxes."""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image as Pillow

from diagcot.data.phantom.canvas import Field, bounds, ellipse, grid, paint, segment, soft, unit
from diagcot.data.seeded import generator
from diagcot.data.study import Box

ROWS = {"top": 0.2, "middle": 0.5, "bottom": 0.8}
COLUMNS = {"left": 0.2, "centre": 0.5, "right": 0.8}
RADII = {"small": 0.06, "large": 0.13}
TONES = {"dark": -0.35, "bright": 0.35}
_MOST = 3


@dataclass(frozen=True, order=True)
class Shape:
    """One shape: its name, size, tone and place on the grid. Left and right are those of the viewer."""

    row: str
    column: str
    name: str
    size: str
    tone: str

    def __str__(self) -> str:
        place = "centre" if (self.row, self.column) == ("middle", "centre") else f"{self.row} {self.column}"
        return f"a {self.size} {self.tone} {self.name} at the {place}"


@dataclass(frozen=True)
class Scene:
    """The shapes of a drawing in reading order: from top left to bottom right."""

    shapes: tuple[Shape, ...]

    @property
    def sentences(self) -> list[str]:
        """One sentence for each shape."""
        return [f"There is {shape}." for shape in self.shapes] or ["There is no shape."]


def sample(*keys: object) -> Scene:
    """A random scene, fixed by `keys`: no shape in one of eight, otherwise one to three in different places."""
    rng = generator("scene", *keys)
    count = 0 if rng.random() < 0.125 else int(rng.integers(1, _MOST + 1))
    places = rng.choice(len(ROWS) * len(COLUMNS), size=count, replace=False)
    shapes = [
        Shape(
            row=list(ROWS)[place // len(COLUMNS)],
            column=list(COLUMNS)[place % len(COLUMNS)],
            name=str(rng.choice(list(SHAPES))),
            size=str(rng.choice(list(RADII))),
            tone=str(rng.choice(list(TONES))),
        )
        for place in sorted(int(place) for place in places)
    ]
    return Scene(tuple(shapes))


def draw(scene: Scene, size: int, *keys: object) -> tuple[bytes, tuple[Box, ...]]:
    """JPEG bytes of size x size grey pixels, and a box for each shape. keys: fix the noise and the small shifts."""
    rng = generator("drawing", *keys)
    gx, gy = grid(size)
    slope = rng.uniform(-0.2, 0.2, 2)
    image: Field = np.asarray(rng.uniform(0.4, 0.6) + slope[0] * (gx - 0.5) + slope[1] * (gy - 0.5), np.float32)
    boxes = []
    for shape in scene.shapes:
        x, y = COLUMNS[shape.column] + rng.uniform(-0.04, 0.04), ROWS[shape.row] + rng.uniform(-0.04, 0.04)
        mask = SHAPES[shape.name](size, float(x), float(y), RADII[shape.size] * float(rng.uniform(0.9, 1.1)))
        paint(image, mask, image + TONES[shape.tone])
        corners = bounds(mask)
        if corners:
            boxes.append(Box(shape.name, *corners))
    image += 0.06 * (rng.random((size, size), dtype=np.float32) - 0.5)
    out = io.BytesIO()
    Pillow.fromarray((unit(image) * 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue(), tuple(boxes)


def _ring(size: int, x: float, y: float, radius: float) -> Field:
    return ellipse(size, x, y, radius, radius) - ellipse(size, x, y, 0.55 * radius, 0.55 * radius)


def _square(size: int, x: float, y: float, radius: float) -> Field:
    gx, gy = grid(size)
    return soft(np.maximum(np.abs(gx - x), np.abs(gy - y)) - 0.85 * radius, 0.02)


def _cross(size: int, x: float, y: float, radius: float) -> Field:
    across = segment(size, (x - radius, y), (x + radius, y), 0.4 * radius)
    return np.maximum(across, segment(size, (x, y - radius), (x, y + radius), 0.4 * radius))


def _bar(size: int, x: float, y: float, radius: float) -> Field:
    return segment(size, (x - radius, y), (x + radius, y), 0.5 * radius)


SHAPES: dict[str, Callable[[int, float, float, float], Field]] = {
    "disc": lambda size, x, y, radius: ellipse(size, x, y, radius, radius),
    "ring": _ring,
    "square": _square,
    "cross": _cross,
    "bar": _bar,
}
"""Name of a shape -> its mask from the image size, the centre and the radius, all in fractions of the image."""
