"""Kind `align`: one multi-node job that trains the projector."""

from diagcot.training.config.settings import AlignSettings
from diagcot.training.cost import Estimate, Workload
from launchers import model_size
from launchers.inputs import SHARDS, WEIGHTS, one_training
from launchers.stage_kind import ChainView, Stage, StageKind


def check(stage: Stage[AlignSettings], chain: ChainView) -> None:
    """Raises UserError if the batches do not divide among the ranks that the cluster gives, or a package is absent."""
    model_size.check_training(stage, chain, stage.settings.deepspeed, chain.resources(stage.name).ranks)


def storage(stage: Stage[AlignSettings], chain: ChainView) -> int | None:
    """Bytes of the weights; None if the model is not known."""
    return model_size.training_bytes(stage, chain, stage.settings, stage.settings.deepspeed)


def estimate(stage: Stage[AlignSettings], chain: ChainView) -> Estimate | None:
    """Memory on a GPU and GPU-hours; None if there is no GPU."""
    deepspeed = stage.settings.deepspeed
    text, learned = model_size.REPORT_TOKENS
    sequences = deepspeed.sequences(model_size.training_images(stage, chain))
    load = Workload(model_size.visual_tokens(stage, chain), text, learned, sequences)
    return model_size.training_estimate(stage, chain, stage.settings, deepspeed, load)


KIND = StageKind(
    work="diagcot.training.kinds.align",
    former_work="diagcot.training.align",
    settings=AlignSettings,
    resource_profile="train",
    product="weights",
    startup_s=60,
    unit_s=600,
    units=one_training,
    reads={"model": WEIGHTS, "shards": SHARDS},
    check=check,
    storage=storage,
    work_storage=model_size.checkpoints,
    estimate=estimate,
    needs=("deepspeed", "collective"),
)
