"""Bytes on a GPU while a stage trains."""

from dataclasses import dataclass, fields

from diagcot.training.config.settings import DeepSpeedSettings
from diagcot.training.cost.hardware import OPTIMIZER_BYTES, VALUE_BYTES
from diagcot.training.cost.shape import PATCHES_PER_TOKEN, ModelShape
from diagcot.training.cost.workload import CHUNK_TOKENS, LOGIT_BYTES, Workload

BASE_BYTES = 3e9  # CUDA context, NCCL, DeepSpeed's buckets, fragmentation


@dataclass(frozen=True)
class GpuMemory:
    """Bytes on the fullest GPU, by what takes them."""

    weights: float  # of the trained model; with ZeRO-3 this GPU's part and the layers that are gathered
    reference: float  # of the frozen copy that GRPO's KL term needs, divided among the GPUs
    gradients: float
    optimizer: float
    activations: float
    logits: float  # of one chunk of tokens, and the gradient of a trained output head
    base: float = BASE_BYTES

    @property
    def total(self) -> float:
        """The sum of all parts."""
        return float(sum(getattr(self, part.name) for part in fields(self)))


def gpu_memory(
    shape: ModelShape, trainable: set[str], adapter: int, settings: DeepSpeedSettings, load: Workload, ranks: int
) -> GpuMemory:
    """Model states as ZeRO divides them over `ranks` GPUs (Rajbhandari et al. 2020, arXiv:1910.02054), and a micro batch.

    adapter: parameters of a LoRA adapter, which then are those that train. Attention is assumed to keep no matrix of all
    pairs of tokens.
    """
    size = VALUE_BYTES[settings.precision]
    whole = sum(shape.counts.values())
    trained = sum(count for name, count in shape.counts.items() if name in trainable) + adapter

    def states(parameters: int, divided: bool) -> float:
        return _divided_weights(shape, parameters, settings, ranks) if divided else parameters * size

    return GpuMemory(
        weights=states(whole + adapter, settings.stage == 3),
        reference=states(whole, settings.stage == 3 or ranks > 1) if load.reference else 0.0,
        gradients=trained * size / ranks,
        optimizer=0.0 if settings.offload else trained * OPTIMIZER_BYTES / ranks,
        activations=_activations(shape, trainable, settings, load) * size,
        logits=_logits(shape, trainable, settings, load),
    )


def _divided_weights(shape: ModelShape, parameters: int, settings: DeepSpeedSettings, ranks: int) -> float:
    """ZeRO-3: this GPU's part, the layer that is gathered, and the next one."""
    size = VALUE_BYTES[settings.precision]
    embeddings = shape.vocabulary * shape.hidden
    layer = (shape.counts["language_model"] - embeddings) / shape.layers
    own = 0.0 if settings.offload else parameters * size / ranks
    return own + 2 * max(layer, embeddings) * size


def _activations(shape: ModelShape, trainable: set[str], settings: DeepSpeedSettings, load: Workload) -> float:
    """Values that a micro batch keeps for the backward pass."""
    inside = 6 * shape.hidden + 2 * shape.kv_heads * shape.head + 3 * shape.intermediate  # of one layer and token
    kept = shape.layers * (shape.hidden if settings.gradient_checkpointing else inside) + inside
    inside_vision = 6 * shape.vision_hidden + 3 * shape.vision_intermediate
    kept_vision = inside_vision
    if "vision" in trainable:
        kept_vision += shape.vision_depth * (shape.vision_hidden if settings.gradient_checkpointing else inside_vision)
    return settings.micro_batch * (load.tokens * kept + PATCHES_PER_TOKEN * load.visual_tokens * kept_vision)


def _logits(shape: ModelShape, trainable: set[str], settings: DeepSpeedSettings, load: Workload) -> float:
    """Logits of one chunk of tokens; where the output head trains, also the sum of its gradient in float32 and a part."""
    tokens = min(CHUNK_TOKENS, settings.micro_batch * load.learned_tokens)
    head = "language_model" if shape.tied else "lm_head"
    gradient = shape.vocabulary * shape.hidden * (4 + VALUE_BYTES[settings.precision]) if head in trainable else 0
    return tokens * shape.vocabulary * LOGIT_BYTES + gradient
