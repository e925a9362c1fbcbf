"""Kind `traces`: one job that reads what was collected and filtered, and writes statistics and a page of samples."""

from diagcot.cot.settings import TracesSettings
from diagcot.jobs import Unit
from launchers.inputs import single
from launchers.stage_kind import ChainView, Stage, StageKind


def units(stage: Stage[TracesSettings], chain: ChainView) -> list[Unit]:
    """The one unit. Raises UserError if the stage lacks an input."""
    for role in ("traces", "verdicts"):
        single(stage, role, "two inputs: traces (a collect stage), and verdicts (its filter stage)")
    return [Unit("traces")]


KIND = StageKind(
    work="diagcot.cot.review.traces",
    settings=TracesSettings,
    resource_profile="cpu",
    product="report",
    startup_s=5,
    unit_s=60,
    units=units,
)
