"""Kind `filter`: an array over the collected traces; rules and a judge decide what becomes training samples."""

from diagcot.cot.filtration import judge
from diagcot.cot.search import schemas
from diagcot.cot.settings import FilterSettings
from diagcot.jobs import Unit
from launchers import model_size
from launchers.inputs import SHARDS, WEIGHTS, single
from launchers.model_size import base_of
from launchers.stage_kind import ChainView, Headline, Stage, StageKind


def units(stage: Stage[FilterSettings], chain: ChainView) -> list[Unit]:
    """Unit k is the traces of unit k. Raises UserError if the stage lacks an input."""
    traces = single(stage, "traces", "the input traces (a collect stage)")
    if stage.settings.judge:
        single(stage, "model", "the input model (the judge), or `judge: false` in its settings")
    return chain.units_of(traces)


def notes(stage: Stage[FilterSettings], chain: ChainView) -> list[str]:
    """Whether the judge's replies are longer than their limit of tokens."""
    settings, base = stage.settings, base_of(stage, chain)
    tokens = schemas.longest(judge.schema(settings.reason_chars))
    if (
        not settings.judge
        or settings.verdict != "scored"
        or (base and base.settings.pretrained is None)
        or tokens <= settings.max_tokens
    ):
        return []
    return [
        f"{stage.name}: reason_chars allows judgements of about {tokens} tokens, but max_tokens is {settings.max_tokens}:"
        " longer ones are cut and count as refusals; raise it, or lower reason_chars"
    ]


KIND = StageKind(
    work="diagcot.cot.filtration.filter",
    former_work="diagcot.cot.filter",
    settings=FilterSettings,
    resource_profile="server",
    product="data",
    startup_s=180,
    unit_s=300,
    units=units,
    reads={"traces": ("collect",), "shards": SHARDS, "model": WEIGHTS},
    storage=model_size.filtered_bytes,
    notes=notes,
    needs=("vllm",),
    headline=Headline("kept", inputs="traces"),
)
