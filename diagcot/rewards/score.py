"""What every reward takes and returns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

Score = dict[str, float]
"""Components by name; "overall" is what GRPO maximises, "accuracy" (where present) what the gate watches."""


@dataclass(frozen=True)
class Reference:
    """The answer that a sample's author gave: a report, a label sentence, boxes, or a whole interleaved trace."""

    answer: str


class Reward(Protocol):
    """A batch of outputs against their references; `progress` is the share of training done, 0 to 1."""

    def __call__(
        self, outputs: Sequence[str], references: Sequence[Reference], progress: float = 0.0
    ) -> list[Score]: ...
