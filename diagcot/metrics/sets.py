"""Agreement of two sets."""

from collections.abc import Set as AbstractSet


def f1(ours: AbstractSet[object], theirs: AbstractSet[object], both_empty: float = 1.0) -> float:
    """F1 of two sets, 0 to 1: 0 if one of them is empty, `both_empty` if both are."""
    total = len(ours) + len(theirs)
    return 2 * len(ours & theirs) / total if total else both_empty
