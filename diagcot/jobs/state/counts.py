"""Adds up what the units of a stage counted, and says in words what it read of each source, kept and left out."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

Thing = Literal["rows", "studies", "images", "boxes", "questions", "patients"]
THINGS: tuple[Thing, ...] = ("rows", "studies", "images", "boxes", "questions")
EXAMPLES = 5
"""Entries that a list of examples keeps."""


def added(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The counts of all rows together: numbers are added, groups of counts are merged, examples are joined.

    Values of other types (text, true, false) are left out.
    """
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


def asked(counts: Mapping[str, Any], thing: str) -> int:
    """How many were left out as the recipe asks."""
    return sum(counts.get("asked", {}).get(thing, {}).values())


def lost(counts: Mapping[str, Any], thing: str) -> int:
    """How many were lost."""
    return sum(counts.get("lost", {}).get(thing, {}).values())


def reasons_of(counts: Mapping[str, Any], reasons: Mapping[str, int]) -> Iterator[str]:
    """`12: reason, e.g. example`, the most frequent first."""
    for reason, count in sorted(reasons.items(), key=lambda item: -item[1]):
        examples = counts.get("examples", {}).get(reason, [])[:2]
        yield f"{count:,}: {reason}" + (f", e.g. {', '.join(examples)}" if examples else "")


def nothing_of(counts: Mapping[str, Any]) -> list[str]:
    """What a stage needs some of and has none of, by name: the entries of its count `needed` that are 0.

    A unit counts there what it found or made, such as `samples of task report`; the whole stage must have some.
    """
    return [name for name, count in counts.get("needed", {}).items() if not count]


def lines(sources: Mapping[str, Mapping[str, Any]], *, losses_only: bool = False) -> Iterator[str]:
    """The accounts of the sources of a stage for a screen. losses_only: leave out what the recipe asks for."""
    for source, counts in sources.items():
        shown = [
            f"{counts['in_shards'].get(thing, 0):,} of {counts['read'].get(thing, 0):,} {thing}"
            for thing in THINGS
            if counts.get("read", {}).get(thing)
        ]
        details = [] if losses_only else list(_details(counts, "asked", "left out as the recipe asks"))
        details += [*_details(counts, "lost", "lost"), *_flags(counts)]
        if moved := counts.get("moved"):
            kinds = "; ".join(f"{count:,}: {kind}" for kind, count in moved.items())
            details.append(
                f"  images whose split another source decides, because it has the same image or patient: {kinds}"
            )
        if details or not losses_only:
            yield f"{source}: of what was read, the shards have {', '.join(shown) or 'nothing'}"
            yield from details


def _details(counts: Mapping[str, Any], part: str, title: str) -> Iterator[str]:
    for thing in (*THINGS, "patients"):
        reasons = counts.get(part, {}).get(thing, {})
        if reasons:
            yield f"  {title}, {thing}: {'; '.join(reasons_of(counts, reasons))}"


def _flags(counts: Mapping[str, Any]) -> Iterator[str]:
    if counts.get("flagged"):
        yield f"  in the shards, but look at them: {'; '.join(reasons_of(counts, counts['flagged']))}"
