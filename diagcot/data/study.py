"""The typed record of one study, as every reader yields it and every shard stores it."""

from dataclasses import dataclass, field

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
    tags: tuple[str, ...] = ()  # MeSH headings where the dataset has them
    labels: dict[str, int] = field(default_factory=dict)  # CheXpert label -> 1 present, 0 absent, -1 uncertain
    images: tuple[Image, ...] = ()

    @property
    def key(self) -> str:
        return f"{self.dataset}/{self.id}"
