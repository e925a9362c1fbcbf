"""Kind `study`: one job that reads the predictions of all seeds and says which claims hold."""

from diagcot.evaluation.settings import StudySettings
from diagcot.jobs import Unit
from launchers.inputs import ANSWERS, one_table
from launchers.stage_kind import ChainView, Stage, StageKind


def units(stage: Stage[StudySettings], chain: ChainView) -> list[Unit]:
    """The one unit; its key is a digest of all that it reads and tests, as that of `aggregate`."""
    return one_table(stage, chain, "study")


KIND = StageKind(
    work="diagcot.evaluation.study.study",
    settings=StudySettings,
    resource_profile="cpu",
    product="report",
    startup_s=5,
    unit_s=60,
    units=units,
    reads={"predictions": ANSWERS},
    grows="anew",  # with further seeds or claims, or with other settings, the tables are made again
    selector_settings=tuple(StudySettings.model_fields),
    needs=("java",),
)
