"""Kind `retrieval`: one unit for each model and source of shards, since every report is a candidate for every image."""

from diagcot.jobs import Unit, UserError
from diagcot.training.config.settings import RetrievalSettings
from launchers import model_size
from launchers.inputs import SHARDS, WEIGHTS, distinct_collections
from launchers.stage_kind import ChainView, Stage, StageKind


def units(stage: Stage[RetrievalSettings], chain: ChainView) -> list[Unit]:
    """Raises UserError if an input is missing."""
    models, sources = stage.inputs.get("models", []), stage.inputs.get("shards", [])
    if not models or not sources:
        raise UserError(f"stage {stage.name} needs two inputs: models (in the order of the table) and shards")
    distinct_collections(stage, chain, "shards", "test")
    return [
        Unit(
            f"{model}.retrieval.{source}",
            {"model": model, "source": source, "shards": [shard.key for shard in chain.units_of(source)]},
        )
        for model in models
        for source in sources
    ]


KIND = StageKind(
    work="diagcot.training.kinds.retrieval",
    settings=RetrievalSettings,
    resource_profile="server",
    product="data",
    startup_s=20,
    unit_s=10,
    units=units,
    reads={"models": WEIGHTS, "shards": SHARDS},
    storage=model_size.ranks_bytes,
    grows="units",  # a model or a source of shards more
)
