"""Kind `clinical`: an array over the shards of an evaluation; models that read reports score all answers to a shard."""

from diagcot.evaluation.clinical import weights
from diagcot.evaluation.settings import ClinicalSettings
from diagcot.jobs.context import Unit
from diagcot.jobs.errors import UserError
from diagcot.recipe import StageSpec
from launchers.chain import Chain

KIND = "diagcot.evaluation.clinical.score"
SETTINGS = ClinicalSettings
SIZE = "server"
PRODUCT = "data"
STARTUP_S, UNIT_S = 60, 60


def units(stage: StageSpec, chain: Chain) -> list[Unit]:
    """A unit for each task and shard; `of` names the evaluation's units. Raises UserError where nothing is scored."""
    sources = stage.inputs.get("predictions", [])
    if len(sources) != 1:
        raise UserError(f"stage {stage.name} needs the input predictions: an evaluation")
    tasks = ClinicalSettings.model_validate(stage.settings).tasks
    found: dict[str, list[str]] = {}
    for unit in chain.units_of(sources[0]):
        if unit.params["task"] in tasks:
            found.setdefault(unit.key.removeprefix(f"{unit.params['model']}."), []).append(unit.key)
    if not found:
        raise UserError(
            f"stage {stage.name} scores {', '.join(tasks)}, which {sources[0]} does not ask; see its `tasks`"
        )
    return [Unit(key, {"of": keys}) for key, keys in found.items()]


def notes(stage: StageSpec, chain: Chain) -> list[str]:
    """Which models are there, and which metrics will have no value."""
    told = weights.notes(ClinicalSettings.model_validate(stage.settings).weights)
    return [f"{stage.name}: {line}" for line in told]
