"""The typed record of one study, as every reader yields it and every shard stores it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby, pairwise

from diagcot.data import seeded

CHEXPERT_LABELS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
"""The 14 classes in CheXpert's own order (method.md 2.3)."""

SPLITS = ("train", "validate", "test")


@dataclass(frozen=True)
class Box:
    """A labelled region; corners are fractions of the image's width and height, 0 <= x1 < x2 <= 1."""

    label: str
    x1: float
    y1: float
    x2: float
    y2: float
    phrase: str = ""  # words of a report that the region grounds, where the collection gives them (MS-CXR)


@dataclass(frozen=True)
class Image:
    """One film of a study, without its pixels."""

    id: str
    view: str = ""  # PA, AP, FRONTAL (one of the two), LATERAL, or "" where unknown
    width: int = 0
    height: int = 0
    boxes: tuple[Box, ...] = ()
    phantom: bool = False  # drawn by this project, not a film of a person

    @property
    def frontal(self) -> bool:
        return self.view.startswith(("PA", "AP", "FRONTAL"))


@dataclass(frozen=True)
class Study:
    """One study: its report's sections, labels and films. `key` names it in every record of the suite."""

    dataset: str
    id: str
    patient: str
    split: str
    findings: str = ""
    impression: str = ""
    indication: str = ""
    comparison: str = ""
    tags: tuple[str, ...] = ()  # the collection's own headings: MeSH, or its own names of labels that are present
    labels: dict[str, int] = field(default_factory=dict)  # CheXpert label -> 1 present, 0 absent, -1 uncertain
    images: tuple[Image, ...] = ()
    order: str = ""  # as text, puts a patient's studies in the order of time; "" where nothing is known

    @property
    def key(self) -> str:
        return f"{self.dataset}/{self.id}"


def pairs(studies: Iterable[Study]) -> Iterator[tuple[Study, Study]]:
    """(prior, current) of each two studies of a patient that follow each other in time.

    `studies`: those of a patient, or of many with each patient's together. Studies whose `order` is unknown, or the same
    as that of another of the patient, are in no pair: which of them came first cannot be said.
    """
    for _, visits in groupby(studies, key=lambda study: (study.dataset, study.patient)):
        dated = sorted((study for study in visits if study.order), key=lambda study: study.order)
        for prior, current in pairwise(dated):
            if prior.order < current.order:
                yield prior, current


def ordinal(text: str) -> str:
    """A number or date as text that sorts as it counts: digits with leading zeros. Other text is kept."""
    whole, dot, fraction = text.partition(".")
    return f"{int(whole):012d}{dot}{fraction}" if whole.isdecimal() else text


_LATERAL = {"L", "LL", "RL", "LATERAL", "LARGE LATERAL", "LLAT", "RLAT"}


def view_of(text: str) -> str:
    """PA, AP, FRONTAL, LATERAL from the words collections use (`LL`, `Frontal`, `AP_horizontal`); others in capitals."""
    view = text.strip().upper()
    if view in _LATERAL:
        return "LATERAL"
    return "AP" if view.startswith(("AP_", "AP ")) else view


_SPLITS = {"training": "train", "val": "validate", "valid": "validate", "validation": "validate", "dev": "validate"}


def split_of(text: str) -> str:
    """train, validate or test from its other names. Raises ValueError for anything else."""
    split = _SPLITS.get(text.strip().lower(), text.strip().lower())
    if split not in SPLITS:
        raise ValueError(f"{text!r} is no split ({', '.join(SPLITS)})")
    return split


def hashed_split(name: str, shares: Mapping[str, float]) -> str:
    """The split of a patient where the collection has none: by the hash of its name, in these shares of `SPLITS`."""
    fraction = seeded.uniform(name)
    for split in SPLITS:
        if fraction < shares.get(split, 0.0):
            return split
        fraction -= shares.get(split, 0.0)
    return SPLITS[0]
