"""Soft shapes, and their painting on an image of brightness 0 to 1; coordinates are fractions of width and height."""

from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[Any]
"""float32, one value for each pixel, shape (size, size)."""


@lru_cache(maxsize=8)
def grid(size: int) -> tuple[Field, Field]:
    """x and y of each pixel's centre, as a row (1, size) and a column (size, 1)."""
    line = (np.arange(size, dtype=np.float32) + 0.5) / size
    return line[None, :], line[:, None]


def soft(distance: Field, width: float) -> Field:
    """1 where `distance` is far below zero, 0 far above, with a linear edge of `width` between."""
    return unit(0.5 - distance * (1.0 / width))


def unit(values: Field) -> Field:
    """`values` limited to 0 to 1; twice as fast as numpy's `clip` for small arrays."""
    limited: Field = np.minimum(np.maximum(values, 0.0), 1.0)
    return limited


def ellipse(size: int, x: float, y: float, rx: float, ry: float, tilt: float = 0.0, power: float = 2.0) -> Field:
    """Mask of a (super-)ellipse with an edge of about 2 % of the image."""
    gx, gy = grid(size)
    dx, dy = gx - x, gy - y
    if tilt:
        c, s = np.float32(np.cos(tilt)), np.float32(np.sin(tilt))
        dx, dy = c * dx + s * dy, c * dy - s * dx
    u, v = np.abs(dx * (1 / rx)), np.abs(dy * (1 / ry))
    radius = u * u + v * v if power == 2.0 else u**power + v**power
    return soft((radius - 1.0) * (min(rx, ry) / power), 0.02)


def segment(size: int, start: tuple[float, float], end: tuple[float, float], width: float) -> Field:
    """Mask of a straight line with round ends."""
    gx, gy = grid(size)
    ax, ay = start
    bx, by = end[0] - ax, end[1] - ay
    length = bx * bx + by * by
    along = unit((gx - ax) * (bx / length) + (gy - ay) * (by / length))
    dx, dy = gx - ax - along * bx, gy - ay - along * by
    return soft(np.sqrt(dx * dx + dy * dy) - width / 2, 0.01)


def path(size: int, points: list[tuple[float, float]], width: float) -> Field:
    """Mask of a line through `points`, with round ends."""
    mask = segment(size, points[0], points[1], width)
    for start, end in pairwise(points[1:]):
        mask = np.maximum(mask, segment(size, start, end, width))
    return mask


def blob(size: int, x: float, y: float, rx: float, ry: float) -> Field:
    """A soft round cloud: 1 at the centre, about 0.17 at one radius."""
    gx, gy = grid(size)
    cloud: Field = np.exp(-1.8 * ((gx - x) / rx) ** 2) * np.exp(-1.8 * ((gy - y) / ry) ** 2)
    return cloud


def paint(image: Field, mask: Field, value: float | Field, strength: float = 1.0) -> None:
    """Blend `value` into `image` under `mask`, in place."""
    image += mask * strength * (value - image)


def bounds(mask: Field, level: float = 0.5) -> tuple[float, float, float, float] | None:
    """The box (x1, y1, x2, y2), in fractions, around pixels above `level` of the mask's maximum; None if empty."""
    peak = float(mask.max())
    if peak < 0.05:
        return None
    inside = mask > level * peak
    columns, rows = np.flatnonzero(inside.any(axis=0)), np.flatnonzero(inside.any(axis=1))
    size = mask.shape[0]
    return (
        float(columns[0]) / size,
        float(rows[0]) / size,
        float(columns[-1] + 1) / size,
        float(rows[-1] + 1) / size,
    )
