"""Kind `traces`: one job that reads what was collected and filtered, and writes statistics and a page of samples."""

from typing import TYPE_CHECKING

from diagcot.cot.settings import TracesSettings
from diagcot.jobs import Unit, UserError
from diagcot.recipe import StageSpec

if TYPE_CHECKING:
    from launchers.chain import Chain

KIND = "diagcot.cot.review.traces"
SETTINGS = TracesSettings
SIZE = "cpu"
PRODUCT = "report"
STARTUP_S, UNIT_S = 5, 60


def units(stage: StageSpec, chain: "Chain") -> list[Unit]:
    """Raises UserError if the stage lacks an input."""
    if len(stage.inputs.get("traces", [])) != 1 or len(stage.inputs.get("verdicts", [])) != 1:
        raise UserError(
            f"stage {stage.name} needs two inputs: traces (a collect stage), and verdicts (its filter stage)"
        )
    return [Unit("traces")]
