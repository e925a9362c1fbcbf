"""Floating-point operations of a stage of training, and the GPU-hours that they take."""

from diagcot.training.cost.hardware import A100
from diagcot.training.cost.workload import Workload
from diagcot.training.families import ModelShape

HIGH_UTILISATION, LOW_UTILISATION = 0.35, 0.07
"""Model FLOPs utilisation of a well-fed run of long sequences, and the middle of DiagCoT's three published runs, which
reached 5 to 13 % (arXiv:2509.06409). tests/unit/training/test_cost.py says how far each of them is from both."""


def sequence_flops(shape: ModelShape, trainable: set[str], trained: int, load: Workload) -> float:
    """Operations for one sequence, all its passes included.

    The usual count: for each parameter and token 2 forward, 2 for the gradient of the activations wherever something
    before them trains, 2 for that of a trained weight. Experts that a token does not pass do not count. Attention's own
    products, small at these lengths, and what gradient checkpointing computes again are not counted, as in the definition
    of utilisation.
    """
    counts = shape.counts
    patches = shape.patches_per_token * load.visual_tokens
    embeddings = shape.vocabulary * shape.hidden  # looked up, not multiplied
    language = (counts["language_model"] - embeddings - shape.idle) * load.tokens + embeddings * load.learned_tokens
    vision = counts["vision"] * patches + counts["merger"] * load.visual_tokens
    forward = 2 * (language + vision)
    activations = 2 * language + (2 * vision if "vision" in trainable else 0)
    weights = (2 * language if "language_model" in trainable else 0) + (2 * vision if "vision" in trainable else 0)
    if "language_model" not in trainable:
        weights += 2 * trained * load.tokens  # an adapter or a merger
    return forward * (1 + load.scoring_passes) + activations + weights


def gpu_hours(flops: float) -> tuple[float, float]:
    """GPU-hours on an A100 at high and at low utilisation."""
    hours = flops / A100 / 3600
    return hours / HIGH_UTILISATION, hours / LOW_UTILISATION
