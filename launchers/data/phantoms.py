"""Kind `phantoms`: one short task draws a tree of invented patients in MIMIC-CXR-JPG's layout."""

from diagcot.data.phantom.settings import PhantomsSettings
from diagcot.jobs import Unit
from launchers.stage_kind import ChainView, Stage, StageKind

IMAGE_BYTES, PIXELS, POWER = 4_160, 112, 1.45
"""Bytes of a phantom of 112 pixels, and how they grow with its side: 1.5 kB at 56 pixels."""
STUDY_BYTES = 550  # report and rows of the tables


def units(stage: Stage[PhantomsSettings], chain: ChainView) -> list[Unit]:
    """The one unit: the whole tree."""
    return [Unit("tree")]


def storage(stage: Stage[PhantomsSettings], chain: ChainView) -> int:
    """Bytes of the images, reports and tables, as measured on the demo."""
    settings = stage.settings
    image = IMAGE_BYTES * (settings.size / PIXELS) ** POWER
    return int(settings.studies * (len(settings.views) * image + STUDY_BYTES))


KIND = StageKind(
    work="diagcot.data.phantom.build",
    settings=PhantomsSettings,
    resource_profile="cpu",
    product="data",
    startup_s=2,
    unit_s=30,
    units=units,
    reads={},
    storage=storage,
)
