"""Kind `model`: the base model of a chain, taken over from disk or built tiny."""

from typing import TYPE_CHECKING

from diagcot.jobs.context import Unit
from diagcot.recipe import StageSpec
from diagcot.training import storage as sizes
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


def storage(stage: StageSpec, chain: "Chain") -> int:
    """Bytes of the weights."""
    return sizes.base(ModelSettings.model_validate(stage.settings))


def base_of(stage: StageSpec, chain: "Chain") -> StageSpec | None:
    """The stage of this kind that a stage of training descends from."""
    while stage.kind != "model":
        if not stage.inputs.get("model"):
            return None
        stage = chain.spec(stage.inputs["model"][0])
    return stage


def parameters(stage: StageSpec, chain: "Chain") -> int | None:
    """Of the model that a stage descends from; None where it descends from none."""
    base = base_of(stage, chain)
    return sizes.parameters(ModelSettings.model_validate(base.settings)) if base else None
