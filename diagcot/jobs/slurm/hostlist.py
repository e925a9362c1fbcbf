"""Lists of nodes as Slurm writes them, such as `gpu[03-05,9],x1`: read here, since a container has no scontrol."""

import re
from collections.abc import Iterator


def hostnames(nodelist: str) -> list[str]:
    """The names in a list of nodes, in its order.

    >>> hostnames("gpu[03-05,9],rack[1-2]n1")
    ['gpu03', 'gpu04', 'gpu05', 'gpu9', 'rack1n1', 'rack2n1']
    """
    return [name for part in re.split(r",(?![^\[]*\])", nodelist.strip()) if part for name in _expanded(part)]


def _expanded(part: str) -> Iterator[str]:
    head, bracket, rest = part.partition("[")
    if not bracket:
        yield part
        return
    inside, _, tail = rest.partition("]")
    for item in inside.split(","):
        first, _, last = item.partition("-")
        for number in range(int(first), int(last or first) + 1):
            yield from (f"{head}{number:0{len(first)}d}{end}" for end in _expanded(tail))
