"""The names of rewards and their modes, light enough for a settings module. The first mode is the default."""

MODES: dict[str, tuple[str, ...]] = {
    "report": ("clinical", "released"),
    "classification": ("curriculum", "released"),
    "grounding": ("matched", "released"),
    "closed": ("checked", "released"),
    "open": ("checked", "released"),
}

GATED = ("closed", "open")
"""Rewards whose process and reasoning terms count only through the gate."""
