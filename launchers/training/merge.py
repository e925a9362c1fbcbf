"""Kind `merge`: one task joins a LoRA adapter with its base."""

from typing import TYPE_CHECKING

from diagcot.jobs import Unit
from diagcot.recipe import StageSpec
from diagcot.training.config.settings import MergeSettings
from launchers.training import model

if TYPE_CHECKING:
    from launchers.chain import Chain

KIND = "diagcot.training.kinds.merge"
SETTINGS = MergeSettings
SIZE = "cpu"
PRODUCT = "weights"
STARTUP_S, UNIT_S = 60, 600


def units(stage: StageSpec, chain: "Chain") -> list[Unit]:
    return [Unit("model")]


def storage(stage: StageSpec, chain: "Chain") -> int | None:
    """Bytes of a whole model, as those of its base."""
    base = model.base_of(stage, chain)
    return model.storage(base, chain) if base else None
