"""Kind `sft`: one multi-node DeepSpeed job of supervised fine-tuning (pre-training, teacher, chain of thought)."""

from diagcot.training.config.settings import SftSettings
from diagcot.training.cost import Estimate, Workload
from launchers import model_size
from launchers.inputs import SAMPLES, SHARDS, WEIGHTS, one_training, without_samples
from launchers.stage_kind import ChainView, Stage, StageKind

DATA_KINDS = ("texts", "shard", "questions", "filter", "synthetic-sft")


def check(stage: Stage[SftSettings], chain: ChainView) -> None:
    """Raises UserError if the batches do not divide among the ranks that the cluster gives, or what settings need is absent."""
    settings, resources = stage.settings, chain.resources(stage.name)
    model_size.check_training(stage, chain, settings.deepspeed, resources.ranks, resources.gpus, settings.lora)


def notes(stage: Stage[SftSettings], chain: ChainView) -> list[str]:
    """Tasks that will have no sample."""
    return without_samples(stage, chain, (task for task, weight in stage.settings.tasks.items() if weight))


def storage(stage: Stage[SftSettings], chain: ChainView) -> int | None:
    """Bytes of the weights; None if the model is not known."""
    return model_size.training_bytes(stage, chain, stage.settings, stage.settings.deepspeed, stage.settings.lora)


def estimate(stage: Stage[SftSettings], chain: ChainView) -> Estimate | None:
    """Memory on a GPU and GPU-hours; None if there is no GPU."""
    settings = stage.settings
    sources = [chain.stage(name).spec.kind for name in stage.spec.follows]
    visual = (
        0 if {kind for kind in sources if kind in DATA_KINDS} <= {"texts"} else model_size.visual_tokens(stage, chain)
    )
    text, learned = model_size.TRACE_TOKENS if stage.inputs.get("samples") else model_size.REPORT_TOKENS
    load = Workload(visual, text, learned, settings.deepspeed.sequences(_samples(stage, chain)))
    return model_size.training_estimate(stage, chain, settings, settings.deepspeed, load, settings.lora)


def _samples(stage: Stage[SftSettings], chain: ChainView) -> int | None:
    """Samples of one epoch; None if that is not known beforehand."""
    traces, images = model_size.trace_samples(stage, chain), model_size.training_images(stage, chain)
    if traces is None or images is None or not set(stage.settings.tasks) <= {"report"}:
        return None
    return round(traces * stage.settings.samples_weight + images * stage.settings.tasks.get("report", 0))


KIND = StageKind(
    work="diagcot.training.kinds.sft",
    former_work="diagcot.training.sft",
    settings=SftSettings,
    resource_profile="train",
    product="weights",
    startup_s=60,
    unit_s=600,
    units=one_training,
    reads={"model": WEIGHTS, "shards": SHARDS, "samples": SAMPLES},
    check=check,
    notes=notes,
    storage=storage,
    work_storage=model_size.checkpoints,
    estimate=estimate,
    needs=("deepspeed", "collective"),
)
