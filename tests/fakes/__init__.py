"""Servers that answer by script, for tests without vLLM."""
