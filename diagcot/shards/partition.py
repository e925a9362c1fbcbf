"""Which patients go to which shard: all of a patient's films to one, and every shard about as many films."""

import heapq
from collections.abc import Mapping

from diagcot.data import seeded


def partition(patients: Mapping[str, int], part: int, parts: int) -> list[str]:
    """The patients of `part` (0 to parts - 1), in the order of their hashes; see `partitions`."""
    return partitions(patients, parts)[part]


def partitions(patients: Mapping[str, int], parts: int) -> list[list[str]]:
    """The patients of each part, in the order of their hashes. `patients`: patient -> number of films.

    The largest patient left goes to the part that has least (longest processing time first; Graham, SIAM J. Appl. Math.
    1969, doi 10.1137/0117039); among equals hashes decide, so it does not matter in which order patients were read. Two
    parts never differ by more films than the largest patient has, and where there are many small ones, by a film or two.
    """
    chosen: list[list[tuple[int, str]]] = [[] for _ in range(parts)]
    least = [(0, part) for part in range(parts)]  # (films so far, part), a heap
    for _, name, patient in sorted((-films, _rank(patient), patient) for patient, films in patients.items()):
        films, part = least[0]
        heapq.heapreplace(least, (films + patients[patient], part))
        chosen[part].append((name, patient))
    return [[patient for _, patient in sorted(mine)] for mine in chosen]


def _rank(patient: str) -> int:
    return seeded.rank(patient, bits=128)
