"""CX-Mind's gate (arXiv:2508.03733): process and reason count only while the batch is as accurate as before."""

from collections.abc import Sequence
from dataclasses import dataclass

from diagcot.rewards.score import Score


@dataclass
class Gate:
    """Exponential mean of batch accuracy, 0 to 1. It is part of every checkpoint, so a resumed run gates the same way.

    alpha: weight of the newest batch. margin: by how much a batch must exceed the mean. mean: None before the first batch.
    """

    alpha: float = 0.2
    margin: float = 0.0
    mean: float | None = None

    def apply(self, scores: Sequence[Score]) -> list[Score]:
        """Scores with `process` and `reason` added to `overall` if the batch is stable; updates the mean.

        The first batch is stable and sets the mean; later ones are stable if accuracy >= mean + margin. The scores come from
        a CX-Mind reward, whose `overall` is the base alone; each returned score also has `stable` (0 or 1).
        """
        if not scores:
            return []
        accuracy = sum(score["accuracy"] for score in scores) / len(scores)
        stable = self.mean is None or accuracy >= self.mean + self.margin
        self.mean = accuracy if self.mean is None else self.alpha * accuracy + (1 - self.alpha) * self.mean
        return [
            {
                **score,
                "overall": score["overall"] + (score["process"] + score["reason"] if stable else 0.0),
                "stable": float(stable),
            }
            for score in scores
        ]

    def state(self) -> dict[str, float | None]:
        """What a checkpoint stores."""
        return {"alpha": self.alpha, "margin": self.margin, "mean": self.mean}

    @staticmethod
    def of(state: dict[str, float | None]) -> "Gate":
        """The gate of a stored `state`."""
        return Gate(state["alpha"] or 0.0, state["margin"] or 0.0, state["mean"])
