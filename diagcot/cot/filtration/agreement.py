"""Agreement of repeated judgements: raw, and corrected for chance (Fleiss 1971, doi:10.1037/h0031619)."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Agreement:
    """Yes-or-no votes on many items, as sums that add up over shards."""

    votes: int = 0
    yes: int = 0
    pairs: int = 0  # pairs of votes on the same item
    agreeing: int = 0  # pairs whose votes agree

    @staticmethod
    def of(votes: Sequence[bool]) -> "Agreement":
        """The votes on one item; a single vote has no pair and contributes nothing."""
        n, yes = len(votes), sum(votes)
        if n < 2:
            return Agreement()
        return Agreement(n, yes, n * (n - 1) // 2, (yes * (yes - 1) + (n - yes) * (n - yes - 1)) // 2)

    def __add__(self, other: "Agreement") -> "Agreement":
        return Agreement(
            self.votes + other.votes,
            self.yes + other.yes,
            self.pairs + other.pairs,
            self.agreeing + other.agreeing,
        )

    @property
    def raw(self) -> float | None:
        """The share of pairs of votes that agree, 0 to 1; None without pairs."""
        return self.agreeing / self.pairs if self.pairs else None

    @property
    def kappa(self) -> float | None:
        """Fleiss' kappa, at most 1, 0 at chance level; None if all votes are equal, because then the chance is 1.

        With equally many votes for every item this is Fleiss' definition; otherwise each item is weighted by its pairs.
        """
        if self.raw is None:
            return None
        share = self.yes / self.votes
        chance = share**2 + (1 - share) ** 2
        return None if chance == 1 else (self.raw - chance) / (1 - chance)
