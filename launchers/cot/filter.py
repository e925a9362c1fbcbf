"""Kind `filter`: an array over the collected traces; rules and a judge decide what becomes training samples."""

from typing import TYPE_CHECKING

from diagcot.cot.settings import FilterSettings
from diagcot.jobs import Unit, UserError
from diagcot.recipe import StageSpec

if TYPE_CHECKING:
    from launchers.chain import Chain

KIND = "diagcot.cot.filtration.filter"
SETTINGS = FilterSettings
SIZE = "server"
PRODUCT = "data"
STARTUP_S, UNIT_S = 180, 300
YIELDS = ("kept", "traces")  # the count that GPU-hours are told for, and the input whose GPU-hours are part of them
NEEDS = ("vllm",)  # see diagcot.preflight.rehearsal.stage


def units(stage: StageSpec, chain: "Chain") -> list[Unit]:
    """Unit k is the traces of unit k. Raises UserError if the stage lacks an input."""
    if len(stage.inputs.get("traces", [])) != 1:
        raise UserError(f"stage {stage.name} needs the input traces (a collect stage)")
    if FilterSettings.model_validate(stage.settings).judge and len(stage.inputs.get("model", [])) != 1:
        raise UserError(f"stage {stage.name} needs the input model (the judge), or `judge: false` in its settings")
    return chain.units_of(stage.inputs["traces"][0])
