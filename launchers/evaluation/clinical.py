"""Kind `clinical`: an array over the evaluation's units of written answers, scored by models that read reports."""

from diagcot.evaluation.clinical import weights
from diagcot.evaluation.settings import ClinicalSettings
from diagcot.jobs import Unit
from diagcot.recipe import StageSpec
from launchers.chain import Chain
from launchers.evaluation.evaluate import answered

KIND = "diagcot.evaluation.clinical.score"
SETTINGS = ClinicalSettings
SIZE = "server"
PRODUCT = "data"
STARTUP_S, UNIT_S = 60, 20
GROWS, LISTED = "units", ("tasks",)


def units(stage: StageSpec, chain: Chain) -> list[Unit]:
    """The units of the evaluation whose task is scored, those of one shard side by side, so that what was read of a
    reference serves all models. Raises UserError where the input lacks or nothing is scored."""
    found = answered(stage, chain, ClinicalSettings.model_validate(stage.settings).tasks)
    return sorted(found, key=lambda unit: [unit.params[name] for name in ("task", "source", "shard")])


def notes(stage: StageSpec, chain: Chain) -> list[str]:
    """Which models are there, and which metrics will have no value."""
    told = weights.notes(ClinicalSettings.model_validate(stage.settings).weights)
    return [f"{stage.name}: {line}" for line in told]
