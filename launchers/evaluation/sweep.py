"""Kind `sweep`: one job that reads the predictions of all values and seeds and makes one table."""

from diagcot.evaluation.settings import SweepSettings
from diagcot.jobs import Unit
from launchers.evaluation.aggregate import check
from launchers.inputs import ANSWERS, one_table
from launchers.stage_kind import ChainView, Stage, StageKind


def units(stage: Stage[SweepSettings], chain: ChainView) -> list[Unit]:
    """The one unit; its key is a digest of all that it reads, as that of `aggregate`."""
    return one_table(stage, chain, "sweep")


KIND = StageKind(
    work="diagcot.evaluation.study.sweep",
    settings=SweepSettings,
    resource_profile="cpu",
    product="report",
    startup_s=5,
    unit_s=60,
    units=units,
    reads={"predictions": ANSWERS},
    check=check,
    grows="anew",  # with further seeds or values, or with other settings, the table is made again
    selector_settings=tuple(SweepSettings.model_fields),
    needs=("java",),
)
