"""Settings of the stage that writes a tree of phantoms."""

from typing import Literal

from pydantic import Field

from diagcot.jobs.settings import Settings


class PhantomsSettings(Settings):
    """Settings of kind `phantoms`: a tree of invented patients in the layout of MIMIC-CXR-JPG."""

    studies: int = Field(1500, ge=1, description="Number of studies, of about two thirds as many patients.")
    size: int = Field(112, ge=32, description="Width and height of an image in pixels, 32 or more.")
    views: list[Literal["PA", "LATERAL"]] = Field(["PA", "LATERAL"], description="The images of each study.")
    held_out: float = Field(
        0.1, ge=0, le=0.5, description="Share of the patients in each of the splits validate and test, from 0 to 0.5."
    )
