"""Kind `collect`: an array over shards; each task starts one server and searches a chain of thought for each study."""

from diagcot.cot.search import schemas
from diagcot.cot.settings import CollectSettings
from diagcot.jobs import Unit, UserError
from launchers import model_size, server_memory
from launchers.inputs import SHARDS, WEIGHTS, single
from launchers.model_size import has_clause_tokens
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
    """Whether the teacher is its own verifier, which replies are longer than their limits, and what its GPUs hold."""
    settings, resources = stage.settings, chain.resources(stage.name)
    gpus = resources.gpus * resources.tasks_per_node
    own_verifier = "report" in settings.tasks and not stage.inputs.get("verifier")
    said = [f"{stage.name}: {_SELF_VERIFIED}"] if own_verifier and settings.preset == "better" else []
    # Replies of a toy have far fewer tokens.
    if settings.search.constrained and not has_clause_tokens(stage, chain):
        limits, search = settings.search.reply.limits(), settings.search
        for name, schema, tokens in (
            ("max_tokens", schemas.thinking(limits, ("findings", "impression")), search.max_tokens),
            ("verdict_tokens", schemas.verdict(limits), search.verdict_tokens),
        ):
            if schemas.longest(schema) > tokens:
                said.append(
                    f"{stage.name}: search.reply allows replies of about {schemas.longest(schema)} tokens, but"
                    f" search.{name} is {tokens}: longer ones are cut and requested again; raise it, or lower search.reply"
                )
    return [*said, *(f"{stage.name}: {line}" for line in server_memory.notes(stage, chain, settings.server, gpus))]


KIND = StageKind(
    work="diagcot.cot.search.collect",
    former_work="diagcot.cot.collect",
    settings=CollectSettings,
    resource_profile="server",
    product="data",
    startup_s=180,
    unit_s=1800,
    units=units,
    reads={"shards": SHARDS, "model": WEIGHTS, "verifier": WEIGHTS, "samples": ("questions",)},
    storage=model_size.traces_bytes,
    notes=notes,
    needs=("vllm",),
)
