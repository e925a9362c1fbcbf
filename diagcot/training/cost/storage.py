"""How many bytes the weights of a stage take: those it publishes, and the checkpoints that it keeps."""

from collections.abc import Iterable
from pathlib import Path

from diagcot.training.config.settings import DeepSpeedSettings, ModelSettings, TinySettings
from diagcot.training.models.pretrained import weights_of

BYTES = {"fp32": 4, "bf16": 2}
OPTIMIZER = 12  # bytes a trained parameter: ZeRO's master copy and Adam's two moments, fp32
PART = 0.1  # share of the parameters that train where the language model does not; rather too much than too little


def parameters(settings: ModelSettings) -> int:
    """Of the model that kind `model` takes over (its files hold bf16) or builds. Raises UserError if it is not there."""
    if settings.pretrained is None:
        return _tiny(settings.tiny)
    root = Path(settings.pretrained)
    return sum((root / name).stat().st_size for name in weights_of(root)) // BYTES["bf16"]


def base(settings: ModelSettings) -> int:
    """Bytes that kind `model` writes."""
    return parameters(settings) * BYTES["fp32" if settings.pretrained is None else "bf16"]


def training(count: int, trainable: Iterable[str], deepspeed: DeepSpeedSettings) -> int:
    """Bytes of a training stage on a model of `count` parameters: its product, `keep` checkpoints and a coming one.

    A resumption on another number of ranks needs up to 24 bytes a trained parameter more, for a while.
    """
    weight = BYTES[deepspeed.precision]
    trained = count if "language_model" in trainable else int(count * PART)
    product = trained if "lora" in trainable else count
    return product * weight + (deepspeed.keep + 1) * trained * (weight + OPTIMIZER)


def _tiny(tiny: TinySettings) -> int:
    """Close to what `diagcot.training.kinds.model` makes: 1.6 million for the tiny recipe's 1,557,952."""
    words = 2 * tiny.vocabulary * tiny.hidden
    attention = 2 * tiny.hidden**2 * (1 + tiny.kv_heads / tiny.heads)
    language = tiny.layers * (attention + 3 * tiny.hidden * tiny.intermediate)
    wide = tiny.vision_hidden
    vision = 3 * 2 * 14**2 * wide + tiny.vision_depth * 16 * wide**2 + (4 * wide) ** 2 + 4 * wide * tiny.hidden
    return int(words + language + vision)
