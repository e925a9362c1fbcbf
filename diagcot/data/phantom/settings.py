"""Settings of the stage that writes a tree of phantoms."""

from typing import Literal

from diagcot.jobs.settings import Settings


class PhantomsSettings(Settings):
    """A tree of invented patients in MIMIC-CXR-JPG's layout."""

    studies: int = 1500
    size: int = 112  # pixels of both sides of a film
    views: list[Literal["PA", "LATERAL"]] = ["PA", "LATERAL"]
    held_out: float = 0.1  # share of each of validate and test
