"""Types of every reward: references, scores and the call."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

Score = dict[str, float]
"""Components by name; "overall" is what GRPO maximises, "accuracy" (where present) what the gate watches."""


@dataclass(frozen=True)
class Reference:
    """The expected answer of a sample: a report, a label sentence, boxes, or a whole interleaved trace.

    options: the texts of a closed question's options in the order of their letters, so that an answer in words is read as
    evaluation reads it.
    """

    answer: str
    options: tuple[str, ...] = ()


class Reward(Protocol):
    """Scores a batch of outputs against their references."""

    def __call__(self, outputs: Sequence[str], references: Sequence[Reference], progress: float = 0.0) -> list[Score]:
        """A score for each output; `progress` is the share of training done, 0 to 1."""
