"""How the header of a stored plan differs from that of a plan of today, key by key."""

import json
import os
import re
from collections.abc import Sequence
from typing import Any

MUTABLE_FIELDS = ("created", "code", "resources", "profile", "setup", "yields", "yields_from", "grows", "listed")
"""Fields that may differ: they do not decide the result."""
UNSET = re.compile(r"\$\{?([A-Za-z_]\w*)")
SHOWN = 200  # characters of a value that are shown


def remedy(differences: Sequence[str]) -> str:
    """What can help: a variable that is not set in this shell is no reason to begin another run."""
    now = (line.rpartition(" in the run, ")[2] for line in differences)
    unset = dict.fromkeys(name for value in now for name in UNSET.findall(value) if name not in os.environ)
    if unset:
        return f"In this shell {', '.join(unset)} is not set: set it as when the run was submitted."
    return "Use another RUN=name, or remove the run's folder to start again."


def compare(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """One line for each difference between two headers that matters, such as `settings.lr: 0.1 in the run, 0.2 now`."""
    before, after = flat(old), flat(new)
    units = "the keys or parameters of the units differ"
    return [
        units
        if name == "units_sha256"
        else f"{name}: {_shown(before.get(name))} in the run, {_shown(after.get(name))} now"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name) and name.split(".")[0] not in MUTABLE_FIELDS
    ]


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested mappings as one: `{"a": {"b": 1}}` is `{"a.b": "1"}`, values as JSON."""
    if _of_mappings(value):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {name: json.dumps(value, default=list)}
    rows: dict[str, Any] = {}
    for key, item in value.items():
        rows |= flat(item, f"{name}.{key}" if name else str(key))
    return rows


def _of_mappings(value: Any) -> bool:
    """Whether it is a list of mappings, such as the sources of a shard stage, whose keys are compared one by one."""
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _shown(value: str | None) -> str:
    """A value for a message, cut if it is long."""
    if value is None:
        return "absent"
    return value if len(value) <= SHOWN else f"{value[:SHOWN]}…"
