"""Aggregation: one job that reads all predictions and writes the run's metrics table and report."""

from diagcot.evaluation.settings import AggregateSettings
from diagcot.jobs.context import Unit
from diagcot.jobs.errors import UserError
from diagcot.recipe import StageSpec
from launchers.chain import Chain

KIND = "diagcot.evaluation.aggregate"
SETTINGS = AggregateSettings
SIZE = "cpu"
PRODUCT = "report"
STARTUP_S, UNIT_S = 5, 60
NEEDS = ("java",)  # see diagcot.rehearsal.stage


def units(stage: StageSpec, chain: Chain) -> list[Unit]:
    """The one unit; it carries the models in the order in which the evaluation lists them."""
    sources = stage.inputs.get("predictions", [])
    if not sources:
        raise UserError(f"stage {stage.name} needs the input predictions: the evaluation stages")
    models = [model for source in sources for model in chain.spec(source).inputs.get("models", [])]
    return [Unit("metrics", {"models": list(dict.fromkeys(models))})]
