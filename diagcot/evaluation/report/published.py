"""The figures that the two papers publish (DiagCoT, arXiv:2509.06409; CX-Mind, arXiv:2508.03733), next to a run's own."""

from dataclasses import dataclass

from diagcot.data.study import IU_XRAY, MIMIC_CXR


@dataclass(frozen=True)
class Published:
    """A published value of `system` and of its base model, on a collection (the name of its samples).

    `column` is the name of our metric nearest to it; only scores on the same collection stand beside it.
    """

    system: str
    what: str
    collection: str
    column: str
    value: float
    base: float | None
    remark: str


PUBLISHED = (
    Published(
        "DiagCoT",
        "zero-shot classification AUC",
        "chexpert",
        "balanced_accuracy",
        0.76,
        0.52,
        "by its code from hard decisions on CheXpert, which is balanced accuracy",
    ),
    Published(
        "DiagCoT",
        "pathology grounding mIoU",
        "rsna_pneumonia",
        "iou_as_released",
        0.31,
        0.08,
        "RSNA; mean over pairs, misses left out",
    ),
    Published(
        "DiagCoT",
        "report generation BLEU",
        MIMIC_CXR,
        "bleu1_as_released",
        0.33,
        0.11,
        "MIMIC-CXR; order not named; mean of samples by its code",
    ),
    Published("CX-Mind", "view", IU_XRAY, "view_accuracy", 0.883, None, "OpenI; accuracy"),
    Published("CX-Mind", "image-text matching", IU_XRAY, "matching_accuracy", 0.76, None, "OpenI; accuracy"),
    Published("CX-Mind", "grounding", "rsna_pneumonia", "iou_pixels", 0.385, None, "RSNA; mean IoU"),
    Published("CX-Mind", "grounding", "cxr_al14", "iou_pixels", 0.149, None, "CXR-AL14; mean IoU, external"),
)
