"""Kind `collect`: an array over shards; each task starts one server and searches a chain of thought for each study."""

from diagcot.cot.settings import CollectSettings
from diagcot.jobs import Unit, UserError
from launchers.inputs import single
from launchers.stage_kind import ChainView, Stage, StageKind

_SELF_VERIFIED = "the teacher verifies its own conclusions; an input verifier names an independent model"


def units(stage: Stage[CollectSettings], chain: ChainView) -> list[Unit]:
    """Unit k is shard k. Raises UserError if the stage lacks an input, or its questions are of other shards."""
    shards = single(stage, "shards", "two inputs: shards, and model (the teacher)")
    single(stage, "model", "two inputs: shards, and model (the teacher)")
    if len(stage.inputs.get("verifier", [])) > 1:
        raise UserError(f"stage {stage.name} takes one input verifier")
    shard_units = chain.units_of(shards)
    if stage.settings.questions:
        samples = single(stage, "samples", "the input samples (a questions stage) for closed and open tasks")
        if [unit.key for unit in chain.units_of(samples)] != [unit.key for unit in shard_units]:
            raise UserError(
                f"stage {stage.name}: {samples} asks about other shards than {shards}; "
                "give both stages the same input shards"
            )
    elif stage.inputs.get("samples"):
        raise UserError(f"stage {stage.name} reads samples only for the tasks closed and open: name them in its tasks")
    return shard_units


def notes(stage: Stage[CollectSettings], chain: ChainView) -> list[str]:
    """Whether the teacher is its own verifier."""
    own_verifier = "report" in stage.settings.tasks and not stage.inputs.get("verifier")
    return [f"{stage.name}: {_SELF_VERIFIED}"] if own_verifier and stage.settings.preset == "better" else []


KIND = StageKind(
    work="diagcot.cot.search.collect",
    former_work="diagcot.cot.collect",
    settings=CollectSettings,
    resource_profile="server",
    product="data",
    startup_s=180,
    unit_s=1800,
    units=units,
    notes=notes,
    needs=("vllm",),
)
