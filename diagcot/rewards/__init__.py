"""Rewards: pure functions of a model's output and a reference, without Java and without a model."""
