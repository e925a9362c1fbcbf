"""Kind `filter`: an array over the collected traces; rules and a judge decide what becomes training samples."""

from diagcot.cot.settings import FilterSettings
from diagcot.jobs import Unit
from launchers.inputs import single
from launchers.stage_kind import ChainView, Headline, Stage, StageKind


def units(stage: Stage[FilterSettings], chain: ChainView) -> list[Unit]:
    """Unit k is the traces of unit k. Raises UserError if the stage lacks an input."""
    traces = single(stage, "traces", "the input traces (a collect stage)")
    if stage.settings.judge:
        single(stage, "model", "the input model (the judge), or `judge: false` in its settings")
    return chain.units_of(traces)


KIND = StageKind(
    work="diagcot.cot.filtration.filter",
    former_work="diagcot.cot.filter",
    settings=FilterSettings,
    resource_profile="server",
    product="data",
    startup_s=180,
    unit_s=300,
    units=units,
    needs=("vllm",),
    headline=Headline("kept", inputs="traces"),
)
