"""Kind `evaluate`: an array over model x task x shard. A task keeps one server and loads model after model into it."""

from collections.abc import Sequence
from typing import Any

from diagcot.cot.settings import QuestionSettings
from diagcot.evaluation.settings import EvaluateSettings
from diagcot.jobs import Unit, UserError
from launchers import model_size
from launchers.inputs import SHARDS, WEIGHTS, distinct_collections, single, without_samples
from launchers.stage_kind import ChainView, Stage, StageKind


def units(stage: Stage[EvaluateSettings], chain: ChainView) -> list[Unit]:
    """Ordered by model, so that a server changes its weights as seldom as possible."""
    models, sources = stage.inputs.get("models", []), stage.inputs.get("shards", [])
    if not models or not sources:
        raise UserError(f"stage {stage.name} needs two inputs: models (in the order of the table) and shards")
    distinct_collections(stage, chain, "shards", "test")
    return [
        Unit(
            ".".join([model, task, source, shard.key]),
            {
                "model": model,
                "task": task,
                "source": source,
                "shard": shard.key,
                "max_tokens": stage.settings.tokens(task),
            },
        )
        for model in models
        for task in stage.settings.tasks
        for source in sources
        for shard in chain.units_of(source)
    ]


def notes(stage: Stage[EvaluateSettings], chain: ChainView) -> list[str]:
    """Tasks that will have no sample, and stages whose questions have another wording than those of the evaluation."""
    asked = set(stage.settings.tasks)
    worded = [
        f"{stage.name}: the questions of stage {spec.name} have another `wording` of {', '.join(sorted(other))}: models would be"
        " asked otherwise than they were taught"
        for spec in chain.recipe.stages
        if spec.kind == "questions" and spec.source is None
        if (other := asked & _differ(chain.stage(spec.name).settings, stage.settings))
    ]
    return [*without_samples(stage, chain, stage.settings.tasks), *worded]


def _differ(taught: QuestionSettings, asked: EvaluateSettings) -> set[str]:
    """Tasks that the two settings word differently."""
    tasks = taught.wording.keys() | asked.wording.keys()
    return {task for task in tasks if taught.wording.get(task) != asked.wording.get(task)}


def answered(stage: Stage[Any], chain: ChainView, tasks: Sequence[str]) -> list[Unit]:
    """Units of the evaluation that `stage` reads whose task is one of `tasks`. Raises UserError if there are none."""
    source = single(stage, "predictions", "the input predictions: an evaluation")
    units = [unit for unit in chain.units_of(source) if unit.params["task"] in tasks]
    if not units:
        raise UserError(
            f"stage {stage.name} reads the answers to {', '.join(tasks)}, but {source} does not ask for them; see its"
            " `tasks`"
        )
    return units


KIND = StageKind(
    work="diagcot.evaluation.predict",
    settings=EvaluateSettings,
    resource_profile="server",
    product="data",
    startup_s=90,
    unit_s=60,
    units=units,
    reads={"models": WEIGHTS, "shards": SHARDS},
    storage=model_size.answers_bytes,
    notes=notes,
    grows="units",  # only what is added is evaluated: a model, a task or a source of shards
    selector_settings=("tasks", "max_tokens"),
    needs=("vllm",),
)
