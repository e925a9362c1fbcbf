"""Evaluation: an array over model x task x shard. An array task keeps one server and gives it model after model."""

from collections.abc import Sequence

from diagcot.evaluation.settings import EvaluateSettings
from diagcot.jobs import Unit, UserError
from diagcot.recipe import StageSpec
from launchers.chain import Chain

KIND = "diagcot.evaluation.predict"
SETTINGS = EvaluateSettings
SIZE = "server"
PRODUCT = "data"
STARTUP_S, UNIT_S = 90, 60
GROWS = "units"  # a model, a task or a source of shards that is added later is evaluated alone, see diagcot.jobs.plans.growth
LISTED = ("tasks", "max_tokens")
NEEDS = ("vllm",)  # see diagcot.preflight.rehearsal.stage


def units(stage: StageSpec, chain: Chain) -> list[Unit]:
    """Ordered by model, so that a server changes its weights as seldom as it can."""
    models, sources = stage.inputs.get("models", []), stage.inputs.get("shards", [])
    if not models or not sources:
        raise UserError(f"stage {stage.name} needs two inputs: models (in the order of the table) and shards")
    settings = EvaluateSettings.model_validate(stage.settings)
    return [
        Unit(
            ".".join([model, task, source, shard.key]),
            {
                "model": model,
                "task": task,
                "source": source,
                "shard": shard.key,
                "max_tokens": settings.tokens(task),
            },
        )
        for model in models
        for task in settings.tasks
        for source in sources
        for shard in chain.units_of(source)
    ]


def answered(stage: StageSpec, chain: Chain, tasks: Sequence[str]) -> list[Unit]:
    """Units of the evaluation that `stage` reads whose task is one of `tasks`. Raises UserError where there are none."""
    sources = stage.inputs.get("predictions", [])
    if len(sources) != 1:
        raise UserError(f"stage {stage.name} needs the input predictions: an evaluation")
    found = [unit for unit in chain.units_of(sources[0]) if unit.params["task"] in tasks]
    if not found:
        raise UserError(
            f"stage {stage.name} reads the answers to {', '.join(tasks)}, which {sources[0]} does not ask; see its `tasks`"
        )
    return found
