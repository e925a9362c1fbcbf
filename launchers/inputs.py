"""Checks of a stage's inputs that several kinds share."""

from typing import Any

from diagcot.jobs import Unit, UserError
from launchers.stage_kind import ChainView, Stage


def single(stage: Stage[Any], role: str, what: str) -> str:
    """The one stage of a role. Raises UserError that says `what` the stage needs if there is none or more than one."""
    names = stage.inputs.get(role, [])
    if len(names) != 1:
        raise UserError(f"stage {stage.name} needs {what}")
    return names[0]


def one_per_shard(stage: Stage[Any], chain: ChainView) -> list[Unit]:
    """Unit k is shard k of the input `shards`. Raises UserError if the stage lacks it."""
    shards = single(stage, "shards", "the input shards")
    return chain.units_of(shards)


def one_training(stage: Stage[Any], chain: ChainView) -> list[Unit]:
    """The whole stage is one unit, whose product is a model."""
    return [Unit("model")]
