"""What a stage of training will take: memory a GPU and GPU-hours, from the model's shape and the recipe alone.

Time is floating-point operations over peak x utilisation. Utilisation differs most: a well-fed run of long sequences
reaches SOUND, DiagCoT's three published runs (method.md 3, 4.3) reached 5 to 13 %, of which MODEST is the middle. Both
ends are told. tests/unit/training/test_estimate.py says how far each run is from them.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from diagcot.training.config.settings import DeepSpeedSettings, LoraSettings
from diagcot.training.cost.shape import MERGE, Shape

PEAK = 312e12  # bf16 operations a second of an A100 or A800, dense
SOUND, MODEST = 0.35, 0.07  # model FLOPs utilisation
BYTES = {"fp32": 4, "bf16": 2}
OPTIMIZER = 12  # bytes a trained parameter: ZeRO's master copy and Adam's two moments
FILMS = {True: 223_049, False: 368_960}
"""MIMIC-CXR's training films, those with findings and impression (method.md 2.1) and all (physionet.org)."""
KEPT = 0.91  # of the traces that are collected, those that become samples (method.md 4.2)
REPORT, REASONED = (175, 160), (760, 740)  # text tokens of a sample and those learned (method.md 3.1, 4.3)
BASE = 3e9  # bytes: CUDA context, NCCL, DeepSpeed's buckets, fragmentation


@dataclass(frozen=True)
class Load:
    """What passes through the model. visual, text: tokens of a sample; sequences: None where not known beforehand."""

    visual: int
    text: int
    learned: int  # of the text tokens, those with logits
    sequences: int | None = None
    forwards: int = 0  # passes without gradients beside each one with: 2 for GRPO's reference and old policy


@dataclass(frozen=True)
class Estimate:
    """parameters, trained: counts. memory: bytes on the fullest GPU. sound, modest: GPU-hours, None if not known."""

    parameters: int
    trained: int
    memory: float
    tokens: int | None
    sound: float | None
    modest: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def estimate(
    shape: Shape,
    trainable: Iterable[str],
    lora: LoraSettings | None,
    settings: DeepSpeedSettings,
    load: Load,
    ranks: int,
) -> Estimate:
    """Of a stage on `ranks` GPUs."""
    counts, chosen = shape.counts, set(trainable)
    trained = {name: count for name, count in counts.items() if name in chosen}
    if lora is not None:
        trained["lora"] = shape.lora(lora)
        counts = counts | {"lora": trained["lora"]}
    operations = None if load.sequences is None else load.sequences * flops(shape, chosen, sum(trained.values()), load)
    hours = None if operations is None else operations / PEAK / 3600
    return Estimate(
        parameters=sum(counts.values()),
        trained=sum(trained.values()),
        memory=memory(shape, chosen, sum(counts.values()), sum(trained.values()), settings, load, ranks),
        tokens=None if load.sequences is None else load.sequences * (load.visual + load.text),
        sound=None if hours is None else hours / SOUND,
        modest=None if hours is None else hours / MODEST,
    )


def flops(shape: Shape, trainable: set[str], trained: int, load: Load) -> float:
    """Operations for one sequence, by the usual count: 2 a parameter and token forwards, 2 for the gradient of the
    activations wherever something before them trains, 2 for that of a trained weight. Attention's own products, small at
    these lengths, and what checkpointing computes twice are left out, as in the utilisation's definition.
    """
    counts, tokens = shape.counts, load.visual + load.text
    patches = MERGE * load.visual
    words = shape.vocabulary * shape.hidden  # looked up, not multiplied
    language = (counts["language_model"] - words) * tokens + words * load.learned
    vision = counts["vision"] * patches + counts["merger"] * load.visual
    forward = 2 * (language + vision)
    backward = 2 * language + (2 * vision if "vision" in trainable else 0)
    heavy = 2 * (language if "language_model" in trainable else 0) + 2 * (vision if "vision" in trainable else 0)
    light = 0 if "language_model" in trainable else 2 * trained * tokens  # an adapter or a merger
    return forward * (1 + load.forwards) + backward + heavy + light


def memory(
    shape: Shape,
    trainable: set[str],
    parameters: int,
    trained: int,
    settings: DeepSpeedSettings,
    load: Load,
    ranks: int,
) -> float:
    """Bytes on a GPU: model states as ZeRO divides them (Rajbhandari et al. 2020, arXiv:1910.02054), activations of a
    micro batch with attention that keeps no square matrix, logits of the learned tokens, and `BASE`."""
    size = BYTES[settings.precision]
    whole = settings.stage != 3
    layer = (shape.counts["language_model"] - shape.vocabulary * shape.hidden) / shape.layers
    weights = parameters * size if whole else (0 if settings.offload else parameters * size / ranks)
    working = 0 if whole else 2 * max(layer, shape.vocabulary * shape.hidden) * size  # gathered, and the next one
    gradients = trained * size / ranks
    optimizer = 0 if settings.offload else trained * OPTIMIZER / ranks
    tokens = settings.micro_batch * (load.visual + load.text)
    inside = 6 * shape.hidden + 2 * shape.kv_heads * shape.head + 3 * shape.intermediate
    kept = shape.layers * (shape.hidden if settings.gradient_checkpointing else inside) + inside
    patches = settings.micro_batch * MERGE * load.visual
    seen = 6 * shape.vision_hidden + 3 * shape.vision_intermediate
    deep = shape.vision_hidden if settings.gradient_checkpointing else seen
    vision = patches * (seen + (shape.vision_depth * deep if "vision" in trainable else 0))
    logits = settings.micro_batch * load.learned * shape.vocabulary * (size + 4 + 4)  # and their fp32 copy and gradient
    return weights + working + gradients + optimizer + (tokens * kept + vision) * size + logits + BASE
