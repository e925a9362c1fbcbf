"""Which patients go to which shard: all images of a patient to one, and about as many images to every shard."""

import heapq
from collections.abc import Mapping

from diagcot.data import seeded


def partition(patients: Mapping[str, int], part: int, parts: int) -> list[str]:
    """The patients of `part` (0 to parts - 1), in the order of their ranks; see `partitions`."""
    return partitions(patients, parts)[part]


def partitions(patients: Mapping[str, int], parts: int) -> list[list[str]]:
    """The patients of each part, in the order of their ranks. patients: patient -> number of images.

    The largest remaining patient goes to the part with the fewest images (longest processing time first; Graham, SIAM
    J. Appl. Math. 1969, doi 10.1137/0117039). Ranks decide between equals, so the order in which patients were read has
    no effect. Two parts never differ by more images than the largest patient has; with many small patients they differ
    by one or two.
    """
    chosen: list[list[tuple[int, str]]] = [[] for _ in range(parts)]
    smallest = [(0, part) for part in range(parts)]  # (images so far, part), a heap
    for _, rank, patient in sorted((-images, _rank(patient), patient) for patient, images in patients.items()):
        images, part = smallest[0]
        heapq.heapreplace(smallest, (images + patients[patient], part))
        chosen[part].append((rank, patient))
    return [[patient for _, patient in sorted(ranked)] for ranked in chosen]


def _rank(patient: str) -> int:
    return seeded.rank(patient, bits=128)
