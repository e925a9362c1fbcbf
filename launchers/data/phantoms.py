"""Kind `phantoms`: one short task draws a tree of invented patients in MIMIC-CXR-JPG's layout."""

from typing import TYPE_CHECKING

from diagcot.data.phantom.settings import PhantomsSettings
from diagcot.jobs import Unit
from diagcot.recipe import StageSpec

if TYPE_CHECKING:
    from launchers.chain import Chain

KIND = "diagcot.data.phantom.build"
SETTINGS = PhantomsSettings
SIZE = "cpu"
PRODUCT = "data"
STARTUP_S, UNIT_S = 2, 30


def units(stage: StageSpec, chain: "Chain") -> list[Unit]:
    return [Unit("tree")]
