"""The figures of a reasoning: is it true, does it consider what is there, does the answer follow from it."""

from dataclasses import dataclass

FIGURES = ("factuality", "completeness", "effectiveness", "overall")
"""The figures of a reasoning."""


@dataclass(frozen=True)
class Reasoning:
    """Figures of one reasoning, each 0 to 1."""

    factuality: float  # share of its findings that the reference supports
    completeness: float  # share of the reference's findings that it considers
    effectiveness: float  # F1 of its findings and those of the answer

    @property
    def overall(self) -> float:
        """Harmonic mean of factuality and completeness, times effectiveness: none of them can be gained alone."""
        total = self.factuality + self.completeness
        return 2 * self.factuality * self.completeness / total * self.effectiveness if total else 0.0
