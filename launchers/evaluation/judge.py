"""Kind `judge`: an array over the evaluation's units of the judged tasks; each task keeps one server of the judge."""

from diagcot.evaluation.settings import JudgeSettings
from diagcot.jobs import Unit
from launchers.evaluation.evaluate import answered
from launchers.inputs import WEIGHTS, single
from launchers.stage_kind import ChainView, Stage, StageKind


def units(stage: Stage[JudgeSettings], chain: ChainView) -> list[Unit]:
    """The units of the evaluation whose task is judged. Raises UserError if an input is missing or nothing is judged."""
    single(stage, "model", "the input model: the judge")
    return answered(stage, chain, stage.settings.tasks)


KIND = StageKind(
    work="diagcot.evaluation.judge",
    settings=JudgeSettings,
    resource_profile="server",
    product="data",
    startup_s=90,
    unit_s=30,
    units=units,
    reads={"predictions": ("evaluate", "predictions"), "model": WEIGHTS},
    grows="units",
    selector_settings=("tasks",),
    needs=("vllm",),
)
