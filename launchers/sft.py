"""Kind `sft`: one multi-node DeepSpeed job of supervised fine-tuning (pre-training, teacher, chain of thought)."""

from typing import TYPE_CHECKING

from diagcot.jobs.context import Unit
from diagcot.recipe import StageSpec
from diagcot.training.settings import SftSettings

if TYPE_CHECKING:
    from launchers.chain import Chain

KIND = "diagcot.training.sft"
SETTINGS = SftSettings
SIZE = "train"
PRODUCT = "weights"
STARTUP_S, UNIT_S = 60, 600


def units(stage: StageSpec, chain: "Chain") -> list[Unit]:
    """The whole training is one unit, run by all ranks and resumed from its checkpoints."""
    return [Unit("model")]
