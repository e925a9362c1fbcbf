"""Bytes on a GPU while a stage trains, and beside a rollout engine that shares it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from diagcot.training.config.settings import DeepSpeedSettings
from diagcot.training.cost.hardware import OPTIMIZER_BYTES, VALUE_BYTES
from diagcot.training.cost.workload import CHUNK_TOKENS, LOGIT_BYTES, Workload
from diagcot.training.families import ModelShape

BASE_BYTES = 3e9  # CUDA context, NCCL, DeepSpeed's buckets, fragmentation
PACKED_BYTES = 0.516  # of a value in NF4 with double quantisation (arXiv:2305.14314, section 3): 4.127 bits
ASLEEP_BYTES = 2e9  # CUDA context, CUDA graphs and NCCL of an engine that sleeps: weights and cache are given back
PASSING = ("gathered", "activations", "logits")
"""Parts that exist only inside a pass; their memory is given back before a rollout."""


@dataclass(frozen=True)
class GpuMemory:
    """Bytes of training on the fullest GPU, by what takes them."""

    weights: float  # of the trained model; with ZeRO-3 this GPU's part
    reference: float  # of the frozen copy that GRPO's KL term needs: this GPU's part
    gradients: float
    optimizer: float
    gathered: float  # layers of the model or its reference that ZeRO-3 has gathered
    activations: float
    logits: float  # of one chunk of tokens, and the gradient of a trained output head
    tower: float = 0.0  # a frozen vision tower, whole beside a model that ZeRO-3 divides
    base: float = BASE_BYTES

    @property
    def total(self) -> float:
        """The sum of all parts."""
        return sum(self.parts.values())

    @property
    def parts(self) -> dict[str, float]:
        """Part -> bytes, without those that are 0."""
        return {name: float(size) for name, size in asdict(self).items() if size}


@dataclass(frozen=True)
class Engine:
    """A rollout engine on the policy's GPUs. awake: its bytes of a GPU. sleeps: while the policy trains."""

    awake: float
    sleeps: bool = True


def budget(training: GpuMemory, engine: Engine | None) -> dict[str, Mapping[str, float]]:
    """Moment -> part -> bytes on the fullest GPU: `training`, and with an engine on the same GPU `rollouts`."""
    parts = training.parts
    if engine is None:
        return {"training": parts}
    awake = {"awake_engine": engine.awake}
    asleep = {"sleeping_engine": ASLEEP_BYTES} if engine.sleeps else awake
    kept = {name: size for name, size in parts.items() if name not in PASSING}
    return {"training": parts | asleep, "rollouts": kept | awake}


def gpu_memory(
    shape: ModelShape,
    trainable: set[str],
    adapter: int,
    settings: DeepSpeedSettings,
    load: Workload,
    ranks: int,
    packed: int = 0,
) -> GpuMemory:
    """Model states as ZeRO divides them over `ranks` GPUs (Rajbhandari et al. 2020, arXiv:1910.02054), and a micro batch.

    adapter: parameters of a LoRA adapter, which train beside `trainable`. packed: those of the model in 4 bits. Attention is
    assumed to keep no matrix of all pairs of tokens.
    """
    size = VALUE_BYTES[settings.precision]
    whole = sum(shape.counts.values())
    trained = sum(count for name, count in shape.counts.items() if name in trainable) + adapter
    divided, reference_divided = settings.stage == 3, settings.stage == 3 or ranks > 1

    def states(parameters: int, divided: bool) -> float:
        if divided:
            return 0.0 if settings.offload else parameters * size / ranks
        return float(parameters * size)

    tower = shape.counts["vision"] + shape.counts["merger"]
    gathers = divided or (load.reference and reference_divided)
    return GpuMemory(
        weights=states(whole + adapter - packed, divided) + packed * PACKED_BYTES,
        reference=states(whole, reference_divided) if load.reference else 0.0,
        gradients=trained * size / ranks,
        optimizer=0.0 if settings.offload else trained * OPTIMIZER_BYTES / ranks,
        gathered=_gathered(shape) * size if gathers else 0.0,
        activations=_activations(shape, trainable, settings, load) * size,
        logits=_logits(shape, trainable, settings, load),
        tower=float(tower * size) if divided and "vision" not in trainable else 0.0,
    )


def _gathered(shape: ModelShape) -> float:
    """Parameters that ZeRO-3 holds whole: the layer at work and the next one."""
    embeddings = shape.vocabulary * shape.hidden
    layer = (shape.counts["language_model"] - embeddings) / shape.layers
    return 2 * max(layer, embeddings)


def _activations(shape: ModelShape, trainable: set[str], settings: DeepSpeedSettings, load: Workload) -> float:
    """Values that a micro batch keeps for the backward pass."""
    inside = 6 * shape.hidden + 2 * shape.kv_heads * shape.head + 3 * shape.intermediate  # of one layer and token
    at_work = inside + 2 * shape.intermediate  # with the gradients inside it
    kept = shape.layers * (shape.hidden if settings.gradient_checkpointing else inside) + at_work
    inside_vision = 6 * shape.vision_hidden + 3 * shape.vision_intermediate
    kept_vision = inside_vision
    if "vision" in trainable:
        kept_vision += shape.vision_depth * (shape.vision_hidden if settings.gradient_checkpointing else inside_vision)
    of_text = load.tokens * kept / settings.sequence_parallel
    return _sequences(settings, load) * (of_text + shape.patches_per_token * load.visual_tokens * kept_vision)


def _sequences(settings: DeepSpeedSettings, load: Workload) -> float:
    """Sequences of a forward pass."""
    return max(1.0, settings.micro_batch_tokens / load.tokens) if settings.micro_batch_tokens else settings.micro_batch


def _logits(shape: ModelShape, trainable: set[str], settings: DeepSpeedSettings, load: Workload) -> float:
    """Logits of one chunk of tokens; where the output head trains, also the sum of its gradient in float32 and a part."""
    tokens = min(CHUNK_TOKENS, _sequences(settings, load) * load.learned_tokens)
    head = "language_model" if shape.tied else "lm_head"
    gradient = shape.vocabulary * shape.hidden * (4 + VALUE_BYTES[settings.precision]) if head in trainable else 0
    return tokens * shape.vocabulary * LOGIT_BYTES + gradient
