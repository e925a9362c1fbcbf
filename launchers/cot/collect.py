"""Kind `collect`: an array over shards; each task starts one server and searches a chain of thought for each film."""

from typing import TYPE_CHECKING

from diagcot.cot.settings import CollectSettings
from diagcot.jobs import Unit, UserError
from diagcot.recipe import StageSpec

if TYPE_CHECKING:
    from launchers.chain import Chain

KIND = "diagcot.cot.search.collect"
SETTINGS = CollectSettings
SIZE = "server"
PRODUCT = "data"
STARTUP_S, UNIT_S = 180, 1800
NEEDS = ("vllm",)  # see diagcot.preflight.rehearsal.stage
_ALONE = "the teacher verifies its own conclusions; an input verifier names an independent model"


def units(stage: StageSpec, chain: "Chain") -> list[Unit]:
    """Unit k is shard k. Raises UserError if the stage lacks an input, or its questions are of other shards."""
    if len(stage.inputs.get("shards", [])) != 1 or len(stage.inputs.get("model", [])) != 1:
        raise UserError(f"stage {stage.name} needs two inputs: shards, and model (the teacher)")
    if len(stage.inputs.get("verifier", [])) > 1:
        raise UserError(f"stage {stage.name} takes one input verifier")
    found = chain.units_of(stage.inputs["shards"][0])
    samples = stage.inputs.get("samples", [])
    if CollectSettings.model_validate(stage.settings).questions:
        if len(samples) != 1:
            raise UserError(f"stage {stage.name} needs the input samples (a questions stage) for closed and open tasks")
        if [unit.key for unit in chain.units_of(samples[0])] != [unit.key for unit in found]:
            raise UserError(
                f"stage {stage.name}: {samples[0]} asks about other shards than {stage.inputs['shards'][0]}; "
                "give both stages the same input shards"
            )
    elif samples:
        raise UserError(f"stage {stage.name} reads samples only for the tasks closed and open: name them in its tasks")
    return found


def notes(stage: StageSpec, chain: "Chain") -> list[str]:
    """What a plan says about the stage beside what it costs."""
    settings = CollectSettings.model_validate(stage.settings)
    verified = "report" in settings.tasks and not stage.inputs.get("verifier")
    return [f"{stage.name}: {_ALONE}"] if verified and settings.preset == "better" else []
