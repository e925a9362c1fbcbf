"""Kind `texts`: one short task that reads text conversations from disk."""

from typing import TYPE_CHECKING

from diagcot.jobs import Unit
from diagcot.recipe import StageSpec
from diagcot.training.config.texts_settings import TextsSettings

if TYPE_CHECKING:
    from launchers.chain import Chain

KIND = "diagcot.training.kinds.texts"
SETTINGS = TextsSettings
SIZE = "cpu"
PRODUCT = "data"
STARTUP_S, UNIT_S = 5, 120


def units(stage: StageSpec, chain: "Chain") -> list[Unit]:
    return [Unit("texts")]


def check(stage: StageSpec, chain: "Chain") -> None:
    """Raises UserError where a file that the recipe names is not there."""
    TextsSettings.model_validate(stage.settings).paths()


def storage(stage: StageSpec, chain: "Chain") -> int:
    """Bytes of the files that are read: what is written differs little."""
    return sum(path.stat().st_size for path in TextsSettings.model_validate(stage.settings).paths())
