"""The build of one invented patient: measures that vary from person to person, shared by both views of a study."""

from dataclasses import dataclass

import numpy as np

HEART_RATIO = {"normal": (0.40, 0.45), "mild": (0.56, 0.60), "severe": (0.70, 0.76)}
"""Cardiothoracic ratio: width of the heart over width of the chest (above 0.5 is enlarged)."""


@dataclass(frozen=True)
class Build:
    """Measures of a patient: lengths as fractions of the image, brightness and contrast from 0 to 1."""

    middle: float  # x of the spine
    top: float  # y of the apices
    half_width: float  # from the spine to the outer edge of a lung
    base: float  # y of the domes of the diaphragm
    dome: float  # how much higher the right dome stands
    heart_ratio: float
    bone: float  # contrast of ribs
    tissue: float  # brightness of soft tissue
    air: float  # brightness of lungs
    noise: float  # standard deviation of the brightness

    @staticmethod
    def draw(rng: np.random.Generator, heart: str) -> "Build":
        """The build of a random patient; `heart` is a key of `HEART_RATIO`."""
        return Build(
            middle=rng.uniform(0.485, 0.515),
            top=rng.uniform(0.10, 0.14),
            half_width=rng.uniform(0.37, 0.41),
            base=rng.uniform(0.77, 0.81),
            dome=rng.uniform(0.01, 0.03),
            heart_ratio=rng.uniform(*HEART_RATIO[heart]),
            bone=rng.uniform(0.05, 0.08),
            tissue=rng.uniform(0.50, 0.58),
            air=rng.uniform(0.13, 0.19),
            noise=rng.uniform(0.012, 0.022),
        )
