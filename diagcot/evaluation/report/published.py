"""The figures that the two papers publish (DiagCoT, arXiv:2509.06409; CX-Mind, arXiv:2508.03733), next to a run's own."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A published value of `system` and of its base model; `column` is the name of our metric nearest to it."""

    system: str
    what: str
    column: str
    value: float
    base: float | None
    remark: str


PUBLISHED = (
    Published(
        "DiagCoT",
        "zero-shot classification AUC",
        "auc",
        0.76,
        0.52,
        "by its code from hard decisions on CheXpert, which is balanced accuracy",
    ),
    Published(
        "DiagCoT", "pathology grounding mIoU", "iou_as_released", 0.31, 0.08, "RSNA; mean over pairs, misses left out"
    ),
    Published(
        "DiagCoT",
        "report generation BLEU",
        "bleu1_as_released",
        0.33,
        0.11,
        "order not named; mean of samples by its code",
    ),
    Published("CX-Mind", "view, OpenI", "view_accuracy", 0.883, None, "accuracy"),
    Published("CX-Mind", "image-text matching, OpenI", "matching_accuracy", 0.76, None, "accuracy"),
    Published("CX-Mind", "grounding, RSNA", "iou_pixels", 0.385, None, "mean IoU"),
    Published("CX-Mind", "grounding, CXR-AL14", "iou_pixels", 0.149, None, "mean IoU, external"),
)
