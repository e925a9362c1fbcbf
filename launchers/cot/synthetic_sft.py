"""Kind `synthetic-sft`: an array of short tasks that write worked examples from the phantoms of a shard, for tiny models."""

from typing import TYPE_CHECKING

from diagcot.cot.settings import SyntheticSettings
from diagcot.jobs import Unit, UserError
from diagcot.recipe import StageSpec

if TYPE_CHECKING:
    from launchers.chain import Chain

KIND = "diagcot.cot.synthetic.synthetic_sft"
SETTINGS = SyntheticSettings
SIZE = "cpu"
PRODUCT = "data"
STARTUP_S, UNIT_S = 5, 20


def units(stage: StageSpec, chain: "Chain") -> list[Unit]:
    """Unit k is shard k. Raises UserError if the stage lacks its input."""
    if len(stage.inputs.get("shards", [])) != 1:
        raise UserError(f"stage {stage.name} needs the input shards")
    return chain.units_of(stage.inputs["shards"][0])
