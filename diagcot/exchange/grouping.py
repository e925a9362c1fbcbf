"""Which study, patient and split an imported image belongs to, by what rows and paths say of it.

The study of an image is that of its path, of a row that names it, or its own together with the images that stand beside it
in a row. The patient is that of its path, of a row, or the study. All images of a patient have one split: the strictest
that a row states (test, then validate), or one by hash.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from diagcot.data.study import SPLITS, seeded_split

_KEY = 16  # hexadecimal digits of a digest in a name


@dataclass(frozen=True)
class Place:
    """Where an image belongs."""

    dataset: str
    study: str
    patient: str
    split: str


@dataclass(frozen=True)
class Naming:
    """A row that names images: their keys, and what it says of them."""

    images: tuple[str, ...]
    about: Mapping[str, str]


def places(
    rows: Sequence[Naming], paths: Mapping[str, str], name: str, patterns: tuple[str, str], shares: Mapping[str, float]
) -> dict[str, Place]:
    """Image -> its place.

    paths: image -> the path that named it. patterns: of the patient and of the study in a path. shares: split -> share of
    the patients for whom no row states a split.
    """
    said = _Said(rows, paths, name, patterns)
    studies = said.studies(rows)
    same = _Groups(paths)  # images of one patient
    for values in (studies, said.patient):
        owners: dict[tuple[str, str], str] = {}
        for key, value in values.items():
            same.join([owners.setdefault((said.dataset[key], value), key), key])
    patients: dict[str, str] = {}
    for key, patient in said.patient.items():
        patients.setdefault(same.first(key), patient)
    splits: dict[str, str] = {}
    for row in rows:
        for key in row.images if "split" in row.about else ():
            first, split = same.first(key), row.about["split"]
            splits[first] = max(splits.get(first, split), split, key=SPLITS.index)
    found = {}
    for key in paths:
        first, dataset = same.first(key), said.dataset[key]
        patient = patients.setdefault(first, studies[first])
        split = splits.get(first) or seeded_split(f"{dataset}/{patient}", shares)
        found[key] = Place(dataset, studies[key], patient, split)
    return found


class _Said:
    """What paths and rows say of each image, paths first, of several rows the first."""

    def __init__(self, rows: Sequence[Naming], paths: Mapping[str, str], name: str, patterns: tuple[str, str]) -> None:
        self.dataset: dict[str, str] = {}
        self.patient: dict[str, str] = {}
        self.study: dict[str, str] = {}
        self._paths = paths
        for key, path in paths.items():
            for found, pattern in zip((self.patient, self.study), patterns, strict=True):
                if match := re.search(pattern, path.replace("\\", "/")):
                    found[key] = match[1]
        for row in rows:
            for key in row.images:
                dataset = self.dataset.setdefault(key, plain(row.about.get("dataset", name)))
                for found, what in ((self.patient, "patient"), (self.study, "study")):
                    if what in row.about:
                        found.setdefault(key, plain(row.about[what].removeprefix(f"{dataset}/")))

    def studies(self, rows: Sequence[Naming]) -> dict[str, str]:
        """Image -> its study; of an image of which none is said, that of the images beside it in rows."""
        beside = _Groups(self._paths)
        for row in rows:
            beside.join([key for key in row.images if key not in self.study])
        return {key: self.study.get(key) or beside.first(key)[:_KEY] for key in self._paths}


def plain(name: str) -> str:
    """A name without slashes, which stand between the parts of a key."""
    return name.replace("/", "-")


class _Groups:
    """Keys that belong together; a group is known by the first of its keys in sorted order."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._parent = {key: key for key in keys}

    def first(self, key: str) -> str:
        while self._parent[key] != key:
            self._parent[key] = self._parent[self._parent[key]]
            key = self._parent[key]
        return key

    def join(self, keys: Sequence[str]) -> None:
        roots = sorted({self.first(key) for key in keys})
        for root in roots[1:]:
            self._parent[root] = roots[0]


def unique_names(paths: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(image, its name): the name of its file without its ending where no other image has it, else its digest."""
    stems = {key: path.replace("\\", "/").rpartition("/")[2].partition(".")[0] for key, path in paths.items()}
    count: dict[str, int] = {}
    for stem in stems.values():
        count[stem] = count.get(stem, 0) + 1
    for key, stem in stems.items():
        yield key, stem if stem and count[stem] == 1 else key[:_KEY]
