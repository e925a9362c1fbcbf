"""Settings of the stage that writes drawings."""

from pydantic import Field

from diagcot.jobs.settings import Settings


class DrawingsSettings(Settings):
    """Settings of kind `drawings`: a folder of drawings that a shard stage reads as the collection `drawings`."""

    images: int = Field(1000, ge=1, description="Number of drawings, 1 or more.")
    size: int = Field(112, ge=32, description="Width and height of an image in pixels, 32 or more.")
