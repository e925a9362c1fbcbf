"""Kind `grpo` with servers that say they have taken over new weights and have not."""

from diagcot.training.crew import Crew
from diagcot.training.grpo import open, run

__all__ = ["open", "run"]

Crew.load = lambda self, model_dir: True  # type: ignore[method-assign]
