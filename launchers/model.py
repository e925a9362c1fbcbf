"""Kind `model`: the base model of a chain, taken over from disk or built tiny."""

from typing import TYPE_CHECKING

from diagcot.jobs.context import Unit
from diagcot.recipe import StageSpec
from diagcot.training.pretrained import weights_of
from diagcot.training.settings import ModelSettings

if TYPE_CHECKING:
    from launchers.chain import Chain

KIND = "diagcot.training.build"
SETTINGS = ModelSettings
SIZE = "cpu"
PRODUCT = "weights"
STARTUP_S, UNIT_S = 20, 20
NEEDS = ("model",)  # see diagcot.rehearsal.stage


def units(stage: StageSpec, chain: "Chain") -> list[Unit]:
    return [Unit("model")]


def check(stage: StageSpec, chain: "Chain") -> None:
    """Raises UserError where the model that the recipe names is not there or not whole."""
    pretrained = ModelSettings.model_validate(stage.settings).pretrained
    if pretrained is not None:
        weights_of(pretrained)
