"""Which patients go to which shard: all of a patient's films to one, and every shard about as many films."""

import hashlib
from collections.abc import Mapping


def partition(patients: Mapping[str, int], part: int, parts: int) -> list[str]:
    """The patients of `part` (0 to parts - 1), in the order of their hashes.

    `patients` maps each patient to the number of its films. The patients are ordered by hash and the order is cut where
    the films so far pass part/parts of all; so a part differs from its fair share by less than one patient at each end,
    and which patients it holds does not depend on the order in which they were read.
    """
    order = sorted(patients, key=_hash)
    total = sum(patients.values())
    chosen, before = [], 0
    for patient in order:
        # A patient belongs to the part in which its middle film falls.
        middle = (2 * before + patients[patient]) * parts // max(2 * total, 1)
        if min(middle, parts - 1) == part:  # patients without films at the end stay in the last
            chosen.append(patient)
        before += patients[patient]
    return chosen


def _hash(patient: str) -> bytes:
    return hashlib.blake2b(patient.encode(), digest_size=16).digest()
