"""Kind `texts`: one short task that reads text conversations from disk."""

from diagcot.jobs import Unit
from diagcot.training.config.texts_settings import TextsSettings
from launchers.stage_kind import ChainView, Stage, StageKind


def units(stage: Stage[TextsSettings], chain: ChainView) -> list[Unit]:
    """The one unit: all files."""
    return [Unit("texts")]


def check(stage: Stage[TextsSettings], chain: ChainView) -> None:
    """Raises UserError if a file that the recipe names is missing."""
    stage.settings.paths()


def storage(stage: Stage[TextsSettings], chain: ChainView) -> int:
    """Bytes of the files that are read; what is written differs little."""
    return sum(path.stat().st_size for path in stage.settings.paths())


KIND = StageKind(
    work="diagcot.training.kinds.texts",
    former_work="diagcot.training.texts",
    settings=TextsSettings,
    resource_profile="cpu",
    product="data",
    startup_s=5,
    unit_s=120,
    units=units,
    reads={},
    check=check,
    storage=storage,
)
