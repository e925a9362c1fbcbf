"""Bytes on disk of the weights that a stage publishes and of the checkpoints that it keeps."""

from collections.abc import Iterable

from diagcot.training.config.settings import DeepSpeedSettings, LoraSettings, ModelSettings
from diagcot.training.cost.hardware import OPTIMIZER_BYTES, VALUE_BYTES
from diagcot.training.cost.shape import ModelShape, shape_of
from diagcot.training.models.pretrained import weight_paths


def model_storage(settings: ModelSettings) -> int:
    """Bytes that kind `model` writes. Raises UserError if the model is missing."""
    if settings.pretrained is None:
        return sum(shape_of(settings).counts.values()) * VALUE_BYTES["fp32"]
    return sum(path.stat().st_size for path in weight_paths(settings.pretrained, settings.adapter))


def weights_storage(shape: ModelShape, settings: DeepSpeedSettings) -> int:
    """Bytes of the whole model at the stage's precision."""
    return sum(shape.counts.values()) * VALUE_BYTES[settings.precision]


def training_storage(
    shape: ModelShape, trainable: Iterable[str], lora: LoraSettings | None, settings: DeepSpeedSettings
) -> int:
    """Bytes of a training stage: its product, `keep` checkpoints, and the one that is being written.

    A resumption on another number of ranks needs up to 24 bytes for each trained parameter more, for a while.
    """
    size, trained = VALUE_BYTES[settings.precision], shape.trained(trainable, lora)
    product = trained * size if lora else weights_storage(shape, settings)
    return product + (settings.keep + 1) * trained * (size + OPTIMIZER_BYTES)
