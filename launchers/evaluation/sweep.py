"""Kind `sweep`: one job that reads the predictions of all values and seeds and makes one table."""

import hashlib
import json

from diagcot.evaluation.settings import SweepSettings
from diagcot.jobs import Unit, UserError
from launchers.stage_kind import ChainView, Stage, StageKind


def units(stage: Stage[SweepSettings], chain: ChainView) -> list[Unit]:
    """The one unit; its key is a digest of all that it reads, as that of `aggregate`."""
    sources = stage.inputs.get("predictions", [])
    if not sources:
        raise UserError(f"stage {stage.name} needs the input predictions: the evaluation stages")
    read = [[name, *(unit.key for unit in chain.units_of(name))] for name in sources]
    digest = hashlib.sha256(json.dumps([read, stage.settings.model_dump()]).encode()).hexdigest()
    return [Unit(f"sweep.{digest[:10]}")]


KIND = StageKind(
    work="diagcot.evaluation.study.sweep",
    settings=SweepSettings,
    resource_profile="cpu",
    product="report",
    startup_s=5,
    unit_s=60,
    units=units,
    grows="anew",  # with further seeds or values the table is made again
    selector_settings=("rows", "seeds", "tasks"),
    needs=("java",),
)
