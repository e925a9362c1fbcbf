"""Bytes on disk of the weights that a stage publishes, and of the checkpoints that it keeps until its end."""

from collections.abc import Iterable

from diagcot.training.config.settings import DeepSpeedSettings, LoraSettings, ModelSettings
from diagcot.training.cost.hardware import OPTIMIZER_BYTES, VALUE_BYTES
from diagcot.training.cost.shape import shape_of
from diagcot.training.families import ModelShape
from diagcot.training.models.pretrained import weight_paths


def model_storage(settings: ModelSettings) -> int:
    """Bytes of the weights of a base model, wherever they lie. Raises UserError if the model is missing."""
    if settings.pretrained is None:
        return sum(shape_of(settings).counts.values()) * VALUE_BYTES["fp32"]
    return sum(path.stat().st_size for path in weight_paths(settings.pretrained, settings.adapter))


def weights_storage(shape: ModelShape, settings: DeepSpeedSettings) -> int:
    """Bytes of the whole model at the stage's precision."""
    return sum(shape.counts.values()) * VALUE_BYTES[settings.precision]


def training_storage(
    shape: ModelShape, trainable: Iterable[str], lora: LoraSettings | None, settings: DeepSpeedSettings
) -> int:
    """Bytes of the product of a training stage: the whole model, or the adapter alone."""
    return (
        shape.trained(trainable, lora) * VALUE_BYTES[settings.precision] if lora else weights_storage(shape, settings)
    )


def checkpoint_storage(
    shape: ModelShape, trainable: Iterable[str], lora: LoraSettings | None, settings: DeepSpeedSettings
) -> int:
    """Bytes of `keep` checkpoints and of the one that is being written, which are gone when the stage is done.

    A resumption on another number of ranks needs up to 24 bytes for each trained parameter more, for a while.
    """
    value = VALUE_BYTES[settings.precision] + OPTIMIZER_BYTES
    return (settings.keep + 1) * shape.trained(trainable, lora) * value
