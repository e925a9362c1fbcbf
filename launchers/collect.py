"""Kind `collect`: an array over shards; each task starts one server and searches a chain of thought for each film."""

from typing import TYPE_CHECKING

from diagcot.cot.settings import CollectSettings
from diagcot.jobs.context import Unit
from diagcot.jobs.errors import UserError
from diagcot.recipe import StageSpec

if TYPE_CHECKING:
    from launchers.chain import Chain

KIND = "diagcot.cot.collect"
SETTINGS = CollectSettings
SIZE = "server"
PRODUCT = "data"
STARTUP_S, UNIT_S = 180, 1800
NEEDS = ("vllm",)  # see diagcot.rehearsal.stage


def units(stage: StageSpec, chain: "Chain") -> list[Unit]:
    """Unit k is shard k. Raises UserError if the stage lacks an input."""
    if len(stage.inputs.get("shards", [])) != 1 or len(stage.inputs.get("model", [])) != 1:
        raise UserError(f"stage {stage.name} needs two inputs: shards, and model (the teacher)")
    return chain.units_of(stage.inputs["shards"][0])
