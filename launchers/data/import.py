"""Kind `import`: one short task that reads conversations about images in the formats of other suites."""

from diagcot.exchange.settings import ImportSettings
from diagcot.jobs import Unit
from launchers.stage_kind import ChainView, Stage, StageKind


def units(stage: Stage[ImportSettings], chain: ChainView) -> list[Unit]:
    """The one unit: all files, so that an image that several of them name is stored once."""
    return [Unit("00000")]


def check(stage: Stage[ImportSettings], chain: ChainView) -> None:
    """Raises UserError if a file that the recipe names is missing."""
    stage.settings.paths()


KIND = StageKind(
    work="diagcot.exchange.importing",
    settings=ImportSettings,
    resource_profile="cpu",
    product="data",
    startup_s=5,
    unit_s=300,
    units=units,
    reads={},
    check=check,
)
