"""What passes through the model in a stage of training."""

from dataclasses import dataclass

CHUNK_TOKENS = 256
"""Tokens of a pass whose logits exist at the same time (`diagcot.training.losses.logprobs`)."""
LOGIT_BYTES = 8
"""Peak bytes of one logit: float32, and its exponential beside it."""


@dataclass(frozen=True)
class Workload:
    """Tokens of one sequence, the number of sequences, and what is computed besides the pass with gradients."""

    visual_tokens: int
    text_tokens: int
    learned_tokens: int  # of the text tokens, those whose logits are computed
    sequences: int | None = None  # of the whole stage; None if that is not known beforehand
    scoring_passes: int = 0  # passes without gradients for each pass with them, as for GRPO's old and reference policy
    reference: bool = False  # a frozen copy of the model, divided among the GPUs

    @property
    def tokens(self) -> int:
        """All tokens of one sequence."""
        return self.visual_tokens + self.text_tokens
