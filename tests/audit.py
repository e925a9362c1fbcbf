"""What a piece of code asks of the operating system, counted: a measure of work that no other load disturbs."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

_COUNTING: list[tuple[frozenset[str], Counter[str]]] = []


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and isinstance(arguments[0], int):  # of what is open already
        return
    for events, counts in _COUNTING:
        if event in events:
            counts[event] += 1


@contextmanager
def counted(*events: str) -> Iterator[Counter[str]]:
    """Counts Python's audit events of these names, such as `open` and `os.listdir`, while the block runs."""
    if not _hooked:
        sys.addaudithook(_hook)  # which cannot be removed
        _hooked.append(True)
    counts: Counter[str] = Counter()
    _COUNTING.append((frozenset(events), counts))
    try:
        yield counts
    finally:
        _COUNTING.pop()


_hooked: list[bool] = []
