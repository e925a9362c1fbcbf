"""The lateral phantom: the patient faces left, the spine is on the right."""

import numpy as np

from diagcot.data.phantom.anatomy import Build
from diagcot.data.phantom.canvas import Field, blob, ellipse, grid, paint, path, segment, soft
from diagcot.data.phantom.findings import Findings, Place

_PLACES = {"upper": (0.50, 0.27), "mid": (0.42, 0.47), "lower": (0.64, 0.66)}


def draw(
    size: int, build: Build, findings: Findings, rng: np.random.Generator
) -> tuple[Field, list[tuple[str, Field]]]:
    """An image and the masks of the findings that a lateral view shows, as in `frontal.draw`."""
    gx, gy = grid(size)
    masks: list[tuple[str, Field]] = []
    image = np.full((size, size), 0.03, np.float32)
    paint(image, ellipse(size, 0.50, 0.58, 0.40, 0.62, power=3.0), build.tissue)
    paint(image, soft(np.abs(gx - 0.52) - 0.13, 0.05) * soft(gy - 0.2, 0.05), build.tissue)
    dome = build.base - 0.06 + 0.55 * np.maximum(gx - 0.40, 0) ** 2 * 1.4
    chest = ellipse(size, 0.51, 0.56, 0.31, 0.56 - build.top, power=2.6)
    lung = chest * soft(gy - dome, 0.02)
    paint(image, lung, build.air + 0.04)
    image += lung * build.bone * np.clip(2 * np.sin(2 * np.pi * (gy - 0.35 * gx) / 0.10), -0.3, 1.0)
    spine = soft(np.abs(gx - 0.76 + 0.05 * (gy - 0.5) ** 2 * 4) - 0.05, 0.02)
    paint(image, spine, 0.66 + 0.08 * np.sign(np.sin(2 * np.pi * gy / 0.085)), 0.7)
    paint(image, segment(size, (0.22, 0.26), (0.18, 0.66), 0.03), 0.72, 0.7)  # sternum
    paint(image, soft(np.abs(gx - 0.50 - 0.12 * gy) - 0.02, 0.02) * soft(gy - 0.40, 0.03), 0.22, 0.7)  # trachea
    depth = 0.30 * build.heart_ratio
    heart = ellipse(size, 0.26 + depth, build.base - 0.20, depth, 0.13 + 0.16 * (build.heart_ratio - 0.4), tilt=-0.45)
    paint(image, heart * chest, 0.68, 0.92)
    if findings.heart != "normal":
        masks.append(("Cardiomegaly", heart))
    if findings.edema:
        haze = lung * blob(size, 0.50, 0.48, 0.17, 0.24)
        paint(image, haze, 0.66, 0.8)
        masks.append(("Edema", haze))
    for place in findings.opacities:
        x, y = _centre(place, rng)
        cloud = lung * np.minimum(1.0, 1.3 * blob(size, x, y, 0.10, 0.10))
        paint(image, cloud, 0.80, 0.9)
        masks.append(("Lung Opacity", cloud))
    for _ in findings.atelectasis[:1]:
        band = lung * segment(size, (0.48, 0.68), (0.70, 0.74), 0.028)
        paint(image, band, 0.85, 0.9)
        masks.append(("Atelectasis", band))
    for place in findings.nodules:
        x, y = _centre(place, rng)
        disc = ellipse(size, x, y, 0.04, 0.04)
        paint(image, disc, 0.92, 0.95)
        masks.append(("Lung Lesion", disc))
    if findings.effusions:
        large = any(effusion.size == "large" for effusion in findings.effusions)
        level = build.base - (0.20 if large else 0.02)
        fluid = chest * soft(level + 0.10 - 0.9 * np.maximum(gx - 0.45, 0.0) ** 2 - gy, 0.02)
        paint(image, fluid, 0.82, 0.95)
        masks.append(("Pleural Effusion", fluid))
    if findings.device == "pacemaker":
        device = np.maximum(
            ellipse(size, 0.22, 0.22, 0.03, 0.055, power=4.0),
            path(size, [(0.23, 0.25), (0.46, 0.40), (0.38, 0.70)], 0.014),
        )
    elif findings.device == "line":
        device = path(size, [(0.46, 0.02), (0.45, 0.25), (0.47, 0.48)], 0.018)
    elif findings.device == "tube":
        device = path(size, [(0.50, 0.0), (0.54, 0.34)], 0.028)
    else:
        return image, masks
    paint(image, device, 1.0)
    masks.append(("Support Devices", device))
    return image, masks


def _centre(place: Place, rng: np.random.Generator) -> tuple[float, float]:
    x, y = _PLACES[place.zone]
    return x + rng.uniform(-0.02, 0.02), y + rng.uniform(-0.02, 0.02)
