"""Chains of thought: the released way of collecting them, vLLM's own load generator, and ours, on the same server."""
