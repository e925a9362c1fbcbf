"""Judging: an array over the evaluation's units of the judged tasks; each task keeps one server of the judge."""

from diagcot.evaluation.settings import JudgeSettings
from diagcot.jobs import Unit, UserError
from diagcot.recipe import StageSpec
from launchers.chain import Chain
from launchers.evaluation.evaluate import answered

KIND = "diagcot.evaluation.judge"
SETTINGS = JudgeSettings
SIZE = "server"
PRODUCT = "data"
STARTUP_S, UNIT_S = 90, 30
GROWS, LISTED = "units", ("tasks",)
NEEDS = ("vllm",)  # see diagcot.preflight.rehearsal.stage


def units(stage: StageSpec, chain: Chain) -> list[Unit]:
    """The units of the evaluation whose task is judged. Raises UserError if an input lacks or nothing is judged."""
    if len(stage.inputs.get("model", [])) != 1:
        raise UserError(f"stage {stage.name} needs the input model: the judge")
    return answered(stage, chain, JudgeSettings.model_validate(stage.settings).tasks)
