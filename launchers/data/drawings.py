"""Kind `drawings`: one short task draws simple shapes with their descriptions and boxes."""

from diagcot.data.drawings.settings import DrawingsSettings
from diagcot.jobs import Unit
from launchers.stage_kind import ChainView, Stage, StageKind


def units(stage: Stage[DrawingsSettings], chain: ChainView) -> list[Unit]:
    """The one unit: the whole folder."""
    return [Unit("tree")]


KIND = StageKind(
    work="diagcot.data.drawings.build",
    settings=DrawingsSettings,
    resource_profile="cpu",
    product="data",
    startup_s=2,
    unit_s=30,
    units=units,
    reads={},
)
