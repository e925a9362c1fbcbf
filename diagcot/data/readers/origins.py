"""Names by which an image or a patient is known in every collection that has it, and the split that all of them use.

An image that two collections share (RSNA's are images of NIH ChestX-ray14, and are in COVIDx too), or a patient of whom
both have images, must not be in the training data of one and in the test data of the other.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from diagcot.data.study import SPLITS

_ROUNDS = 8
"""Most often, patients that share images form small groups, which are settled in two rounds."""


class Origin(NamedTuple):
    """What is known of an image before it is read."""

    patient: str  # in its own collection
    names: tuple[tuple[str, str], ...]  # (collection, name there) of the image and of the patient (`#` and its id)
    split: str
    stated: bool  # whether the collection states the split; it is chosen by hash otherwise


class OriginReader(Protocol):
    """A reader that can tell the origins of its images without opening reports or images."""

    dataset: str

    @property
    def taken_from(self) -> frozenset[str]:
        """Other collections that the tables name for images of this one."""
        ...

    def origins(self) -> Iterator[Origin]:
        """One for each image."""
        ...


def decide(readers: Sequence[OriginReader]) -> list[dict[str, str]]:
    """For each source, patient -> split, of the patients whose split changes because they, or images of them, are shared.

    A stated split comes before one by hash; of several stated ones the strictest is used (test, then validate), of several
    by hash that of the first source. All images of a patient have one split.
    """
    owners = Counter(name for reader in readers for name in (reader.dataset, *reader.taken_from))
    common = {name for name, count in owners.items() if count > 1}.union(*(reader.taken_from for reader in readers))
    patients: dict[tuple[int, str], _Patient] = {}
    holders: dict[int, list[tuple[int, str]]] = {}  # hash of a name -> the patients that have it
    for number, reader in enumerate(readers):
        for origin in reader.origins() if {reader.dataset, *reader.taken_from} & common else ():
            key = number, origin.patient
            patient = patients.setdefault(key, _Patient(origin.split, origin.stated))
            patient.add(origin)
            for digest in (hash(name) for name in origin.names if name[0] in common):
                if digest not in patient.names:
                    patient.names.add(digest)
                    holders.setdefault(digest, []).append(key)
    shared = [keys for keys in holders.values() if len(keys) > 1]
    del holders
    for _ in range(_ROUNDS):
        changed = [_agree([patients[key] for key in keys]) for keys in shared]
        if not any(changed):
            break
    decided: list[dict[str, str]] = [{} for _ in readers]
    for (number, name), patient in patients.items():
        if patient.split != patient.own:
            decided[number][name] = patient.split
    return decided


class _Patient:
    def __init__(self, split: str, stated: bool) -> None:
        self.own = self.split = split
        self.stated = stated and bool(split)
        self.names: set[int] = set()

    def add(self, origin: Origin) -> None:
        """Another image of the patient, whose split may differ in a collection that splits images."""
        if origin.stated and origin.split and _strictness(origin.split) > _strictness(self.split):
            self.own = self.split = origin.split


def _agree(patients: Sequence[_Patient]) -> bool:
    """Give patients that share a name one split; whether that changed anything."""
    stated = [patient.split for patient in patients if patient.stated]
    split = max(stated, key=_strictness) if stated else patients[0].split
    changed = any(patient.split != split or (stated and not patient.stated) for patient in patients)
    for patient in patients:
        patient.split, patient.stated = split, patient.stated or bool(stated)
    return bool(changed)


def _strictness(split: str) -> int:
    return SPLITS.index(split) if split in SPLITS else -1
