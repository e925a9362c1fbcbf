"""Chains of thought: their search, their filtration, and the synthetic conversations for tiny models."""
