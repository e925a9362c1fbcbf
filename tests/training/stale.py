"""Kind `grpo` with servers that say they have taken over new weights and have not."""

from diagcot.training.kinds.grpo import prepare, run
from diagcot.training.rl.rollout_pool import Crew

__all__ = ["prepare", "run"]

Crew.load = lambda self, model_dir: True  # type: ignore[method-assign]
