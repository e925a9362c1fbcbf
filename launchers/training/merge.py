"""Kind `merge`: one task joins a LoRA adapter with its base."""

from diagcot.training.config.settings import MergeSettings
from diagcot.training.cost import model_storage
from launchers import model_size
from launchers.inputs import WEIGHTS, one_training
from launchers.stage_kind import ChainView, Stage, StageKind


def storage(stage: Stage[MergeSettings], chain: ChainView) -> int | None:
    """Bytes of a whole model, as those of its base."""
    base = model_size.base_of(stage, chain)
    return model_storage(base.settings) + model_size.small_files(base.settings) if base else None


KIND = StageKind(
    work="diagcot.training.kinds.merge",
    former_work="diagcot.training.merge",
    settings=MergeSettings,
    resource_profile="cpu",
    product="weights",
    startup_s=60,
    unit_s=600,
    units=one_training,
    reads={"model": WEIGHTS, "adapter": ("sft",)},
    storage=storage,
)
