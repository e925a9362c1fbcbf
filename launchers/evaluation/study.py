"""Kind `study`: one job that reads the predictions of all seeds and says which claims hold."""

import hashlib
import json

from diagcot.evaluation.settings import StudySettings
from diagcot.jobs import Unit, UserError
from launchers.stage_kind import ChainView, Stage, StageKind


def units(stage: Stage[StudySettings], chain: ChainView) -> list[Unit]:
    """The one unit; its key is a digest of all that it reads and tests, as that of `aggregate`."""
    sources = stage.inputs.get("predictions", [])
    if not sources:
        raise UserError(f"stage {stage.name} needs the input predictions: the evaluation stages")
    read = [[name, *(unit.key for unit in chain.units_of(name))] for name in sources]
    digest = hashlib.sha256(json.dumps([read, stage.settings.model_dump()]).encode()).hexdigest()
    return [Unit(f"study.{digest[:10]}")]


KIND = StageKind(
    work="diagcot.evaluation.study.study",
    settings=StudySettings,
    resource_profile="cpu",
    product="report",
    startup_s=5,
    unit_s=60,
    units=units,
    grows="anew",  # with further seeds or claims the tables are made again
    selector_settings=("claims", "seeds"),
    needs=("java",),
)
