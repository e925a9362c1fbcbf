"""Kind `align`: one multi-node job that trains the projector."""

from typing import TYPE_CHECKING

from diagcot.jobs.context import Unit
from diagcot.recipe import StageSpec
from diagcot.training.settings import AlignSettings

if TYPE_CHECKING:
    from launchers.chain import Chain

KIND = "diagcot.training.align"
SETTINGS = AlignSettings
SIZE = "train"
PRODUCT = "weights"
STARTUP_S, UNIT_S = 60, 600


def units(stage: StageSpec, chain: "Chain") -> list[Unit]:
    """The whole training is one unit, run by all ranks and resumed from its checkpoints."""
    return [Unit("model")]
