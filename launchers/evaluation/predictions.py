"""Kind `predictions`: one short task for each foreign model and task of an evaluation."""

from diagcot.evaluation.settings import PredictionsSettings
from diagcot.jobs import Unit, UserError
from launchers.inputs import single
from launchers.stage_kind import ChainView, Stage, StageKind


def units(stage: Stage[PredictionsSettings], chain: ChainView) -> list[Unit]:
    """One unit for each model: its answers to the samples that the evaluation asked its first model about.

    Raises UserError if the evaluation does not ask the task, or a model has the name of a stage.
    """
    source = single(stage, "predictions", "the input predictions: the evaluation whose samples the models answered")
    stages = {spec.name for spec in chain.recipe.stages}
    asked = chain.units_of(source)
    first = asked[0].params["model"]
    found = []
    for model in stage.settings.models:
        if model.model in stages:
            raise UserError(
                f"stage {stage.name}: a stage has the name {model.model}; give the foreign model another one"
            )
        keys = [unit.key for unit in asked if unit.params["model"] == first and unit.params["task"] == model.task]
        if not keys:
            raise UserError(f"stage {stage.name}: {source} does not ask for {model.task}; see its `tasks`")
        about = {"source": source, "shard": "all", "asked": keys, **model.model_dump(mode="json")}
        found.append(Unit(f"{model.model}.{model.task}", about))
    return found


def check(stage: Stage[PredictionsSettings], chain: ChainView) -> None:
    """Raises UserError if a file that the recipe names is missing."""
    for model in stage.settings.models:
        model.file()


KIND = StageKind(
    work="diagcot.evaluation.foreign",
    settings=PredictionsSettings,
    resource_profile="cpu",
    product="data",
    startup_s=2,
    unit_s=10,
    units=units,
    reads={"predictions": ("evaluate",)},
    check=check,
    grows="units",
    selector_settings=("models",),
)
