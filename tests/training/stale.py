"""Kind `grpo` with servers that say they have taken over new weights and have not."""

from diagcot.training.kinds.grpo import open, run
from diagcot.training.rl.rollout_pool import Crew

__all__ = ["open", "run"]

Crew.load = lambda self, model_dir: True  # type: ignore[method-assign]
