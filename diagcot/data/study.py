"""The typed record of one study, which every reader yields and every shard stores."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from diagcot.data import seeded
from diagcot.data.errors import described

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
"""The 14 classes in the order of CheXpert (Irvin et al. 2019, arXiv:1901.07031)."""

SPLITS = ("train", "validate", "test")

MIMIC_CXR, IU_XRAY, PHANTOM = "mimic-cxr", "iu-xray", "phantom"
"""Names in shards and predictions of the collections that code treats apart; those of the others are in the registry."""


@dataclass(frozen=True)
class Box:
    """A labelled region; corners are fractions of the image's width and height, 0 <= x1 < x2 <= 1."""

    label: str
    x1: float
    y1: float
    x2: float
    y2: float
    phrase: str = ""  # the words of a report that the region shows, if the collection has them (MS-CXR)

    @property
    def corners(self) -> tuple[float, float, float, float]:
        """(x1, y1, x2, y2)."""
        return self.x1, self.y1, self.x2, self.y2


@dataclass(frozen=True)
class Image:
    """One image of a study, without its pixels."""

    id: str
    view: str = ""  # PA, AP, FRONTAL (PA or AP), LATERAL, or "" if unknown
    width: int = 0
    height: int = 0
    boxes: tuple[Box, ...] = ()
    phantom: bool = False  # drawn by this project, not an image of a person
    origin: str = ""  # collection/id of the image in the collection that it was taken from, if it was

    @property
    def frontal(self) -> bool:
        """Whether the projection is PA or AP."""
        return self.view.startswith(("PA", "AP", "FRONTAL"))


@dataclass(frozen=True)
class Question:
    """A question that a collection itself asks, with its answer; `diagcot.tasks.questions.given_questions` asks it."""

    text: str
    answers: tuple[str, ...]  # one or several; of a question with options, those of them that are right
    options: tuple[str, ...] = ()  # in the collection's order, without letters; empty if the answer is free
    image: str = ""  # the id of the image that it is about; "" for the whole study
    earlier: str = ""  # the id of an earlier study of the patient with which it compares this one
    reason: str = ""  # why the answer is right, if the collection says it


@dataclass(frozen=True)
class Study:
    """One study: sections of its report, labels and images. `key` names it in every record of the suite."""

    dataset: str
    id: str
    patient: str
    split: str
    findings: str = ""
    impression: str = ""
    indication: str = ""
    comparison: str = ""
    tags: tuple[str, ...] = ()  # the collection's own terms: MeSH headings, or its own names of present labels
    labels: dict[str, int] = field(default_factory=dict)  # CheXpert label -> 1 present, 0 absent, -1 uncertain
    images: tuple[Image, ...] = ()
    order: str = ""  # sorts, as text, the studies of a patient by time; "" if the time is unknown
    questions: tuple[Question, ...] = ()
    age: str = ""  # of the patient at the study, in whole years; "" if it is unknown
    sex: str = ""  # of the patient: female, male, or "" if it is unknown

    @property
    def key(self) -> str:
        """dataset/study, unique over all collections."""
        return f"{self.dataset}/{self.id}"


def pairs(studies: Iterable[Study]) -> Iterator[tuple[Study, Study]]:
    """(prior, current) of every two studies of a patient that follow each other in time.

    studies: those of one patient, or of several with the studies of each patient together. A study is in no pair if its
    `order` is unknown or equal to that of another study of the patient, because it is unknown which came first.
    """
    for _, visits in groupby(studies, key=lambda study: (study.dataset, study.patient)):
        dated = sorted((study for study in visits if study.order), key=lambda study: study.order)
        for prior, current in pairwise(dated):
            if prior.order < current.order:
                yield prior, current


def ordinal(text: str) -> str:
    """A number or date as text that sorts by value: digits with leading zeros. Other text is returned unchanged."""
    whole, dot, fraction = text.partition(".")
    return f"{int(whole):012d}{dot}{fraction}" if whole.isdecimal() else text


_LATERAL = {"lateral", "lat", "ll", "rl", "llat", "rlat"}
_FRONTAL = {
    "PA": {"pa", "posteroanterior"},
    "AP": {"ap", "anteroposterior"},
    "FRONTAL": {"frontal", "frontals"},
}
_UNKNOWN = {"unk", "unknown", "nan", "none", "na", "null", "other"}


def view_of(text: str) -> str:
    """PA, AP, FRONTAL or LATERAL from the terms of collections (`LL`, `frontal view`, `AP_horizontal`), "" if it is unknown.

    Case, blanks and signs do not matter. Other terms (`SWIMMERS`), and those that name two views, are kept in capitals.
    """
    words = re.findall(r"[a-z]+", re.sub(r"(postero|antero)[-_ ](?=ant|post)", r"\1", text.lower()))
    found = [view for view, names in _FRONTAL.items() if names & set(words)]
    if _LATERAL & set(words) or words == ["l"]:
        found.append("LATERAL")
    if "FRONTAL" in found and len(found) > 1:  # "frontal (AP)"
        found.remove("FRONTAL")
    if len(found) == 1:
        return found[0]
    return "" if set(words) <= _UNKNOWN else " ".join(text.upper().split())


_AGE = re.compile(r"0*(\d{1,3})(?:\.\d+)?\s*(y|yr|yrs|years?|m|months?|w|weeks?|d|days?)?", re.IGNORECASE)


def age_of(text: str) -> str:
    """Whole years from `61`, `61.0`, DICOM's `061Y` or `008M`; "" for what is no age of a person (0 to 120 years)."""
    if not (match := _AGE.fullmatch(text.strip())):
        return ""
    number, unit = int(match[1]), (match[2] or "y").lower()[0]
    years = number // {"y": 1, "m": 12, "w": 52, "d": 365}[unit]
    return str(years) if years <= 120 else ""


def sex_of(text: str) -> str:
    """`female` or `male` from one of their names; "" for other texts."""
    word = text.strip().lower()
    return {"f": "female", "female": "female", "woman": "female", "m": "male", "male": "male", "man": "male"}.get(
        word, ""
    )


_SPLITS = {
    "training": "train", "val": "validate", "valid": "validate", "validation": "validate", "dev": "validate",
    "testing": "test",
}  # fmt: skip


def split_of(text: str) -> str:
    """train, validate or test from one of their names. Raises ValueError for anything else."""
    word = text.strip().lower()
    split = _SPLITS.get(word, word)
    if split not in SPLITS:
        raise ValueError(f"its split is none of {', '.join(SPLITS)}, but {described(text)}")
    return split


def _at_most_all(shares: dict[Any, float]) -> dict[Any, float]:
    if sum(shares.values()) > 1:
        raise ValueError(
            f"the shares of {' and '.join(shares)} add up to {sum(shares.values()):g}: give at most 1 together"
        )
    return shares


HeldOut = Annotated[
    dict[Literal["validate", "test"], Annotated[float, Field(ge=0, le=1)]], AfterValidator(_at_most_all)
]
"""A setting: the share of the patients in each split that is held out, from 0 to 1, together at most 1."""


def seeded_split(name: str, shares: Mapping[str, float]) -> str:
    """The split of a patient of a collection without splits: fixed by its name. shares: split -> share, from 0 to 1."""
    fraction = seeded.uniform(name)
    for split in SPLITS:
        if fraction < shares.get(split, 0.0):
            return split
        fraction -= shares.get(split, 0.0)
    return SPLITS[0]
