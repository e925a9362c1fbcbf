"""GRPO: prompts, rollouts, rewards, objective, policy and weight transfer."""
