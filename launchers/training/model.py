"""Kind `model`: the base model of a chain, taken over from disk or built tiny."""

from diagcot.training.config.settings import ModelSettings
from diagcot.training.cost import model_storage
from diagcot.training.models.pretrained import (
    check_family,
    check_packages,
    check_pixel_budget,
    rank_files,
    weight_paths,
)
from launchers import model_size
from launchers.inputs import SAMPLES, SHARDS, one_training
from launchers.stage_kind import ChainView, Stage, StageKind


def check(stage: Stage[ModelSettings], chain: ChainView) -> None:
    """Raises UserError if the model that the recipe names is missing, incomplete or of another family."""
    check_packages(stage.settings.family)
    if stage.settings.pretrained is not None:
        weight_paths(stage.settings.pretrained, stage.settings.adapter)
        check_family(stage.settings)
        check_pixel_budget(stage.settings)


def storage(stage: Stage[ModelSettings], chain: ChainView) -> int:
    """Bytes of what is written: of a model that is taken over as it is, the small files alone, since its weights are linked."""
    settings, weights = stage.settings, model_storage(stage.settings)
    linked = settings.pretrained is not None and not settings.adapter and not rank_files(settings.pretrained)
    return model_size.small_files(settings) + (0 if linked else weights)


KIND = StageKind(
    work="diagcot.training.kinds.model",
    former_work="diagcot.training.build",
    settings=ModelSettings,
    resource_profile="cpu",
    product="weights",
    startup_s=20,
    unit_s=20,
    units=one_training,
    reads={"shards": SHARDS, "samples": SAMPLES},
    check=check,
    storage=storage,
    needs=("model",),
)
