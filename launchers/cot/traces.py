"""Kind `traces`: one job that reads what was collected and filtered, and writes statistics and a page of samples."""

from diagcot.cot.settings import TracesSettings
from diagcot.jobs import Unit, UserError
from launchers.inputs import SHARDS, single
from launchers.stage_kind import ChainView, Stage, StageKind

RUN_FILES = ("estimates", "metrics", "report", "run", "runner")  # other stages write these names into the run's folder


def units(stage: Stage[TracesSettings], chain: ChainView) -> list[Unit]:
    """The one unit. Raises UserError if the stage lacks an input, or if its name is that of another file of the run."""
    if stage.name.lower() in RUN_FILES:
        raise UserError(
            f"stage {stage.name} of kind traces writes {stage.name}.json and {stage.name}.html, but the run has other files"
            " of that name: use another name, such as traces"
        )
    for role in ("traces", "verdicts"):
        single(stage, role, "two inputs: traces (a collect stage), and verdicts (its filter stage)")
    return [Unit("traces")]


KIND = StageKind(
    work="diagcot.cot.review.traces",
    former_work="diagcot.cot.traces",
    settings=TracesSettings,
    resource_profile="cpu",
    product="report",
    startup_s=5,
    unit_s=60,
    units=units,
    reads={"traces": ("collect",), "verdicts": ("filter",), "shards": SHARDS},
)
