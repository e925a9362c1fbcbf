"""The frontal phantom. As on a real image, the patient's right is on the left."""

from functools import lru_cache

import numpy as np

from diagcot.data.phantom.anatomy import Build
from diagcot.data.phantom.canvas import Field, blob, ellipse, grid, paint, path, segment, soft, unit
from diagcot.data.phantom.findings import Findings, Place

_SIGN = {"right": -1.0, "left": 1.0}
_DEPTH = {"upper": 0.22, "mid": 0.50, "lower": 0.80}  # of the lung's height
_LATERAL = {"upper": 0.50, "mid": 0.58, "lower": 0.66}  # of the half width; further out at the base, next to the heart


def draw(
    size: int, build: Build, findings: Findings, rng: np.random.Generator
) -> tuple[Field, list[tuple[str, Field]]]:
    """An image and (CheXpert label, mask) of each finding; values from 0 to 1, all of shape (size, size)."""
    _, gy = grid(size)
    masks: list[tuple[str, Field]] = []
    image = _torso(size, build)
    lungs = {side: _lung(size, build, side) for side in _SIGN}
    both = np.maximum(lungs["right"], lungs["left"])
    paint(image, both, build.air + 0.10 * gy)
    image += both * _vessels(size)
    image += _ribs(size, build) * (0.35 + 0.65 * both)
    _skeleton(image, size, build)
    heart = _heart(size, build)
    paint(image, heart, 0.70, 0.94)
    if findings.heart != "normal":
        masks.append(("Cardiomegaly", heart))
    if findings.edema:
        for side, sign in _SIGN.items():
            haze = lungs[side] * np.minimum(1.0, 1.2 * blob(size, build.middle + sign * 0.17, 0.50, 0.15, 0.26))
            paint(image, haze, 0.66, 0.85)
            masks.append(("Edema", haze))
    for place in findings.opacities:
        cloud = lungs[place.side] * _cloud(size, build, place, rng)
        paint(image, cloud, 0.80, 0.95)
        masks.append(("Lung Opacity", cloud))
    for side in findings.atelectasis:
        band = lungs[side] * _plate(size, build, side, rng)
        paint(image, band, 0.85, 0.9)
        masks.append(("Atelectasis", band))
    for place in findings.nodules:
        x, y = _centre(build, place)
        x, y = x + rng.uniform(-0.03, 0.03), y + rng.uniform(-0.03, 0.03)
        disc = ellipse(size, x, y, rng.uniform(0.036, 0.046), rng.uniform(0.036, 0.046))
        paint(image, disc, 0.92, 0.95)
        masks.append(("Lung Lesion", disc))
    if findings.pneumothorax:
        masks.append(("Pneumothorax", _pneumothorax(image, size, build, findings.pneumothorax, lungs)))
    for effusion in findings.effusions:
        fluid = _chest(size, build, effusion.side) * _fluid(size, build, effusion.side, effusion.size, rng)
        paint(image, fluid, 0.82, 0.96)
        masks.append(("Pleural Effusion", fluid))
    if findings.device:
        device = _device(size, build, findings.device)
        paint(image, device, 1.0)
        masks.append(("Support Devices", device))
    return image, masks


def _torso(size: int, build: Build) -> Field:
    gx, gy = grid(size)
    shoulder = 0.16 + 0.9 * (gx - build.middle) ** 2
    half = build.half_width + 0.075 + 0.03 * gy
    trunk = soft(np.abs(gx - build.middle) - half, 0.04) * soft(shoulder - gy, 0.05)
    neck = soft(np.abs(gx - build.middle) - 0.11, 0.05) * soft(gy - 0.3, 0.05)
    image = np.full((size, size), 0.03, np.float32)
    paint(image, np.maximum(trunk, neck), build.tissue)
    return image


def _dome(size: int, build: Build, side: str) -> Field:
    """Height of the diaphragm in each column, lower towards the outer angle."""
    gx, _ = grid(size)
    out = (gx - build.middle) * _SIGN[side] / build.half_width
    return build.base - (build.dome if side == "right" else 0.0) + 0.30 * np.maximum(out - 0.45, 0.0) ** 2 * 1.6


def _chest(size: int, build: Build, side: str) -> Field:
    """One half of the chest cavity above the lowest angle of the diaphragm, without the mediastinum."""
    gx, gy = grid(size)
    sign = _SIGN[side]
    inner = soft(0.055 - (gx - build.middle) * sign, 0.02)
    cavity = ellipse(size, build.middle + sign * 0.10, 0.62, build.half_width - 0.10, 0.62 - build.top, power=2.6)
    return cavity * inner * soft(gy - build.base - 0.12, 0.02)


def _lung(size: int, build: Build, side: str) -> Field:
    _, gy = grid(size)
    return _chest(size, build, side) * soft(gy - _dome(size, build, side), 0.02)


@lru_cache(maxsize=8)
def _vessels(size: int) -> Field:
    """Vessels that fan out from the hila; the same in every patient, because drawing them is slow."""
    gx, gy = grid(size)
    out = np.abs(gx - 0.5)
    fan = np.arctan2(gy - 0.47, out - 0.05)
    wave = 0.5 + 0.5 * np.sin(13 * fan + 9 * out)
    markings: Field = 0.16 * wave * wave * wave * unit(1.0 - out / 0.34)
    return markings


def _ribs(size: int, build: Build) -> Field:
    gx, gy = grid(size)
    out = np.abs(gx - build.middle)
    phase = (gy + 0.55 * (out - 0.16) ** 2 + 0.18 * out) / 0.088
    edge = (
        soft(out - build.half_width - 0.02, 0.04)
        * soft(0.07 - out, 0.03)
        * soft(gy - 0.86, 0.04)
        * soft(0.14 - gy, 0.04)
    )
    ribs: Field = build.bone * np.clip(np.sin(2 * np.pi * phase) * 2 + 0.2, -0.2, 1.0) * edge
    return ribs


def _skeleton(image: Field, size: int, build: Build) -> None:
    gx, gy = grid(size)
    middle = build.middle
    spine = soft(np.abs(gx - middle) - 0.05, 0.04)
    paint(image, spine, 0.62 + 0.04 * np.sin(2 * np.pi * gy / 0.075), 0.8)
    paint(image, ellipse(size, middle + 0.045, 0.32, 0.05, 0.045), 0.64, 0.8)  # aortic knob
    paint(image, soft(np.abs(gx - middle) - 0.018, 0.02) * soft(gy - 0.36, 0.03), 0.34, 0.8)  # trachea
    for sign in _SIGN.values():
        paint(image, segment(size, (middle + sign * 0.06, 0.205), (middle + sign * 0.36, 0.135), 0.03), 0.70, 0.5)


def _heart(size: int, build: Build) -> Field:
    """An ellipse of the width that the cardiothoracic ratio gives, two thirds of it left of the spine."""
    width = build.heart_ratio * 2 * build.half_width
    ry = 0.13 + 0.16 * (build.heart_ratio - 0.4)
    x = build.middle + 0.15 * width
    return ellipse(size, x, build.base - 0.85 * ry, width / 2, ry, tilt=0.28)


def _centre(build: Build, place: Place) -> tuple[float, float]:
    x = build.middle + _SIGN[place.side] * _LATERAL[place.zone] * build.half_width
    return x, build.top + _DEPTH[place.zone] * (build.base - build.top)


def _cloud(size: int, build: Build, place: Place, rng: np.random.Generator) -> Field:
    x, y = _centre(build, place)
    x, y = x + rng.uniform(-0.02, 0.02), y + rng.uniform(-0.03, 0.03)
    cloud = blob(size, x, y, rng.uniform(0.10, 0.13), rng.uniform(0.10, 0.13))
    for _ in range(2):
        dx, dy = rng.uniform(-0.05, 0.05, 2)
        cloud = np.maximum(cloud, 0.9 * blob(size, x + dx, y + dy, 0.07, 0.06))
    return np.minimum(1.0, 1.3 * cloud)


def _plate(size: int, build: Build, side: str, rng: np.random.Generator) -> Field:
    sign = _SIGN[side]
    y = build.base - rng.uniform(0.07, 0.10)
    inner, outer = build.middle + sign * 0.17, build.middle + sign * (build.half_width - 0.05)
    return segment(size, (inner, y - 0.03), (outer, y + 0.02), 0.028)


def _fluid(size: int, build: Build, side: str, amount: str, rng: np.random.Generator) -> Field:
    """Fluid that fills the angle and rises along the chest wall, a meniscus."""
    gx, gy = grid(size)
    out = (gx - build.middle) * _SIGN[side] / build.half_width
    level = build.base - (rng.uniform(0.00, 0.03) if amount == "small" else rng.uniform(0.20, 0.27))
    return soft(level - 0.16 * unit(out) ** 3 + 0.03 - gy, 0.02)


def _pneumothorax(image: Field, size: int, build: Build, side: str, lungs: dict[str, Field]) -> Field:
    """A collapsed lung: black air without vessels outside a thin white pleural line."""
    sign = _SIGN[side]
    x, y = build.middle + sign * 0.07, 0.68
    rx, ry = build.half_width - 0.165, 0.68 - build.top - 0.11
    collapsed = ellipse(size, x, y, rx, ry, power=2.3)
    _, gy = grid(size)
    air = lungs[side] * (1.0 - collapsed) * soft(gy - 0.68, 0.1)
    paint(image, air, 0.0, 0.97)
    rim = ellipse(size, x, y, rx + 0.012, ry + 0.012, power=2.3) - collapsed
    paint(image, unit(rim) * lungs[side] * soft(gy - 0.68, 0.1), 0.75, 0.9)
    return air


def _device(size: int, build: Build, device: str) -> Field:
    middle = build.middle
    if device == "pacemaker":
        box = ellipse(size, middle + 0.29, 0.20, 0.062, 0.05, power=4.0)
        lead = [
            (middle + 0.25, 0.21),
            (middle + 0.09, 0.19),
            (middle - 0.04, 0.34),
            (middle - 0.03, 0.58),
            (middle + 0.11, 0.74),
        ]
        return np.maximum(box, path(size, lead, 0.014))
    if device == "line":
        points = [(middle - 0.13, 0.02), (middle - 0.11, 0.17), (middle - 0.065, 0.27), (middle - 0.06, 0.50)]
        return path(size, points, 0.018)
    return path(size, [(middle, 0.0), (middle + 0.005, 0.33)], 0.028)
