"""What passes through the model in a stage of training."""

from dataclasses import dataclass

CROSS_ENTROPY_BYTES, POLICY_BYTES = 12, 20
"""Peak bytes of one logit, its copies and gradients: of the supervised loss, and of the log-probabilities that GRPO's
objective needs (a second fp32 copy without the banned tokens, a third divided by the temperature)."""


@dataclass(frozen=True)
class Workload:
    """Tokens of one sequence, the number of sequences, and what is computed besides the pass with gradients."""

    visual_tokens: int
    text_tokens: int
    learned_tokens: int  # of the text tokens, those whose logits are computed
    sequences: int | None = None  # of the whole stage; None if that is not known beforehand
    scoring_passes: int = 0  # passes without gradients for each pass with them, as for GRPO's old and reference policy
    reference: bool = False  # a frozen copy of the model, whole on every GPU or with ZeRO-3 divided
    logit_bytes: int = CROSS_ENTROPY_BYTES

    @property
    def tokens(self) -> int:
        """All tokens of one sequence."""
        return self.visual_tokens + self.text_tokens
