"""Kind `green`: an array over the evaluation's units of written answers; each task keeps one server of GREEN's model."""

from diagcot.evaluation.clinical import weights
from diagcot.evaluation.settings import GreenSettings
from diagcot.jobs import Unit
from diagcot.recipe import StageSpec
from launchers.chain import Chain
from launchers.evaluation.evaluate import answered

KIND = "diagcot.evaluation.clinical.green"
SETTINGS = GreenSettings
SIZE = "server"
PRODUCT = "data"
STARTUP_S, UNIT_S = 90, 60
GROWS, LISTED = "units", ("tasks",)
NEEDS = ("vllm",)  # see diagcot.preflight.rehearsal.stage


def units(stage: StageSpec, chain: Chain) -> list[Unit]:
    """The units of the evaluation whose task is scored. Raises UserError where the input lacks or nothing is scored."""
    return answered(stage, chain, GreenSettings.model_validate(stage.settings).tasks)


def notes(stage: StageSpec, chain: Chain) -> list[str]:
    """Whether the model is there."""
    why = weights.lacking("green", GreenSettings.model_validate(stage.settings).weights)
    return [f"{stage.name}: no GREEN: {why} (docs/evaluation.md)" if why else f"{stage.name}: found green"]
