"""Models that read replies and give components of the reward of kind `grpo`."""
