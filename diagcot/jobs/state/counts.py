"""Adds up what the units of a stage counted: numbers are added, groups of counts are merged, examples are joined."""

from collections.abc import Iterable, Mapping
from typing import Any

EXAMPLES = 5
"""Entries that a list of examples keeps."""


def added(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The counts of all rows together. Values of other types (text, true, false) are left out."""
    total: dict[str, Any] = {}
    for row in rows:
        _add(total, row)
    return total


def _add(total: dict[str, Any], row: Mapping[str, Any]) -> None:
    for name, value in row.items():
        if isinstance(value, bool):
            continue
        if isinstance(value, int | float):
            total[name] = total.get(name, 0) + value
        elif isinstance(value, Mapping):
            _add(total.setdefault(name, {}), value)
        elif isinstance(value, list):
            total[name] = list(dict.fromkeys([*total.get(name, []), *value]))[:EXAMPLES]
