"""Which patients go to which shard: all of a patient's films to one, and every shard about as many films."""

import hashlib
import heapq
from collections.abc import Mapping


def partition(patients: Mapping[str, int], part: int, parts: int) -> list[str]:
    """The patients of `part` (0 to parts - 1), in the order of their hashes.

    `patients` maps each patient to the number of its films. The largest patient left goes to the part that has least
    (longest processing time first; Graham, SIAM J. Appl. Math. 1969, doi 10.1137/0117039); among equals their hashes
    decide, so that it does not matter in which order they were read. Two parts differ by no more films than the largest
    patient has, and by about the smallest patients' in practice.
    """
    chosen = []
    least = [(0, k) for k in range(parts)]  # (films so far, part), a heap
    for _, name, patient in sorted((-films, _hash(patient), patient) for patient, films in patients.items()):
        films, k = least[0]
        heapq.heapreplace(least, (films + patients[patient], k))
        if k == part:
            chosen.append((name, patient))
    return [patient for _, patient in sorted(chosen)]


def _hash(patient: str) -> bytes:
    return hashlib.blake2b(patient.encode(), digest_size=16).digest()
