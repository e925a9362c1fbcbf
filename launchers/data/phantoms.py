"""Kind `phantoms`: one short task draws a tree of invented patients in MIMIC-CXR-JPG's layout."""

from diagcot.data.phantom.settings import PhantomsSettings
from diagcot.jobs import Unit
from launchers.stage_kind import ChainView, Stage, StageKind


def units(stage: Stage[PhantomsSettings], chain: ChainView) -> list[Unit]:
    """The one unit: the whole tree."""
    return [Unit("tree")]


KIND = StageKind(
    work="diagcot.data.phantom.build",
    settings=PhantomsSettings,
    resource_profile="cpu",
    product="data",
    startup_s=2,
    unit_s=30,
    units=units,
)
