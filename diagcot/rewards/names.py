"""The names of rewards and their modes, cheap to import for settings. The first mode is the default."""

MODES: dict[str, tuple[str, ...]] = {
    "report": ("clinical", "released", "whole", "repetition", "spine"),
    "classification": ("curriculum", "released"),
    "grounding": ("matched", "overlap_f1", "released", "graded"),
    "grounding_pixels": ("matched",),
    "closed": ("checked", "paper", "think", "answer", "released"),
    "open": ("checked", "think", "answer", "released"),
}

STYLES = ("trl", "trl_messages", "easyr1")
"""How the reward of another project, `file.py:function`, is called (`diagcot.rewards.external`)."""

GATED = ("closed", "open")
"""Rewards whose process and reason terms count only through the gate."""
