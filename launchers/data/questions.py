"""Kind `questions`: an array of short tasks that write the question answering data of a shard."""

from typing import TYPE_CHECKING

from diagcot.cot.settings import QuestionSettings
from diagcot.jobs import Unit, UserError
from diagcot.recipe import StageSpec

if TYPE_CHECKING:
    from launchers.chain import Chain

KIND = "diagcot.cot.synthetic.questions"
SETTINGS = QuestionSettings
SIZE = "cpu"
PRODUCT = "data"
STARTUP_S, UNIT_S = 5, 120


def units(stage: StageSpec, chain: "Chain") -> list[Unit]:
    """Unit k is shard k. Raises UserError if the stage lacks its input."""
    if len(stage.inputs.get("shards", [])) != 1:
        raise UserError(f"stage {stage.name} needs the input shards")
    return chain.units_of(stage.inputs["shards"][0])
