"""Agreement of two sets."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet


def f1(ours: AbstractSet[object], theirs: AbstractSet[object], both_empty: float = 1.0) -> float:
    """F1 of two sets, 0 to 1: 0 if one of them is empty, `both_empty` if both are."""
    total = len(ours) + len(theirs)
    return 2 * len(ours & theirs) / total if total else both_empty


def specific_f1(
    ours: AbstractSet[str],
    theirs: AbstractSet[str],
    possible: AbstractSet[str],
    weights: Mapping[str, float] | None = None,
) -> float:
    """F1 times specificity, 0 to 1; 1 if both sets are empty.

    Specificity is the share of `possible` items outside `theirs` that `ours` leaves out, so claiming everything earns
    nothing, however much of it is true. weights: what an item counts in F1, 1 where it is not given.
    """

    def weight(items: AbstractSet[str]) -> float:
        return sum((weights or {}).get(item, 1.0) for item in sorted(items))

    total = weight(ours) + weight(theirs)
    if not total:
        return 1.0
    left_out = 1 - min(1.0, len(ours - theirs) / max(1, len(possible - theirs)))
    return 2 * weight(ours & theirs) / total * left_out
