"""The names of rewards and their modes, light enough for a settings module. The first mode is the default."""

MODES: dict[str, tuple[str, ...]] = {
    "report": ("clinical", "released", "whole", "repetition", "spine"),
    "classification": ("curriculum", "released"),
    "grounding": ("matched", "released", "graded"),
    "grounding_pixels": ("matched",),
    "closed": ("checked", "paper", "think", "answer", "released"),
    "open": ("checked", "think", "answer", "released"),
}

STYLES = ("trl", "easyr1")
"""How a reward of another project, `file.py:function`, is called (diagcot.rewards.foreign)."""

GATED = ("closed", "open")
"""Rewards whose process and reasoning terms count only through the gate."""
