"""Kind `merge`: one task joins a LoRA adapter with its base."""

from typing import TYPE_CHECKING

from diagcot.jobs.context import Unit
from diagcot.recipe import StageSpec
from diagcot.training.settings import MergeSettings

if TYPE_CHECKING:
    from launchers.chain import Chain

KIND = "diagcot.training.merge"
SETTINGS = MergeSettings
SIZE = "cpu"
PRODUCT = "weights"
STARTUP_S, UNIT_S = 60, 600


def units(stage: StageSpec, chain: "Chain") -> list[Unit]:
    return [Unit("model")]
