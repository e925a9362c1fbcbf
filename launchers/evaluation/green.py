"""Kind `green`: an array over the evaluation's units of written answers; each task keeps one server of GREEN's model."""

from diagcot.evaluation.settings import GreenSettings
from diagcot.jobs import Unit
from diagcot.metrics.clinical import weights
from launchers.evaluation.evaluate import answered
from launchers.stage_kind import ChainView, Stage, StageKind


def units(stage: Stage[GreenSettings], chain: ChainView) -> list[Unit]:
    """The units of the evaluation whose task is scored. Raises UserError if the input is missing or nothing is scored."""
    return answered(stage, chain, stage.settings.tasks)


def notes(stage: Stage[GreenSettings], chain: ChainView) -> list[str]:
    """Whether the model is there."""
    why = weights.missing_files("green", stage.settings.weights)
    return [f"{stage.name}: no GREEN: {why} (docs/evaluation.md)" if why else f"{stage.name}: found green"]


KIND = StageKind(
    work="diagcot.evaluation.clinical.green",
    settings=GreenSettings,
    resource_profile="server",
    product="data",
    startup_s=90,
    unit_s=60,
    units=units,
    reads={"predictions": ("evaluate", "predictions")},
    notes=notes,
    grows="units",
    selector_settings=("tasks",),
    needs=("vllm",),
)
