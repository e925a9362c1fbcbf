"""Aggregation: one job that reads all predictions and writes the run's metrics table and report."""

import hashlib
import json

from diagcot.evaluation.settings import AggregateSettings
from diagcot.jobs import Unit, UserError
from diagcot.recipe import StageSpec
from launchers.chain import Chain

KIND = "diagcot.evaluation.aggregate"
SETTINGS = AggregateSettings
SIZE = "cpu"
PRODUCT = "report"
STARTUP_S, UNIT_S = 5, 60
GROWS = "anew"  # where the evaluation has grown, the table is made once more
NEEDS = ("java",)  # see diagcot.preflight.rehearsal.stage


def units(stage: StageSpec, chain: Chain) -> list[Unit]:
    """The one unit; it carries the models in the order in which the evaluation lists them.

    Its key is a digest of all that it reads, so that an aggregation of less does not count as this one.
    """
    sources = stage.inputs.get("predictions", [])
    if not sources:
        raise UserError(f"stage {stage.name} needs the input predictions: the evaluation stages")
    models = list(dict.fromkeys(model for source in sources for model in chain.spec(source).inputs.get("models", [])))
    read = [
        [role, name, *(u.key for u in chain.units_of(name))] for role in stage.inputs for name in stage.inputs[role]
    ]
    content = hashlib.sha256(json.dumps([models, read]).encode()).hexdigest()
    return [Unit(f"metrics.{content[:10]}", {"models": models})]
