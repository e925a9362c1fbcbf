"""CheXpert labels and other findings that an answer lists."""

import re
from functools import lru_cache

from diagcot.data.reports.labeler import label
from diagcot.data.study import CHEXPERT_LABELS
from diagcot.text.options import without_marks

NO_FINDING = "No Finding"

_NAMES = {name.lower(): name for name in CHEXPERT_LABELS}
_SEPARATOR = re.compile(r"[,;\n]|\band\b", re.IGNORECASE)
_NOTHING = re.compile(r"\bno abnormalit(?:y|ies)\b", re.IGNORECASE)


def chexpert(answer: str) -> frozenset[str]:
    """CheXpert labels in the list after the last colon of an answer; an item that is no label's name is ignored.

    `No Finding` counts only if no other label is named. DiagCoT's other sentence for it ("no abnormality", 56 of its GRPO
    samples) means the same.
    """
    items = answer.rpartition(":")[2]
    labels = {_NAMES[name] for item in _SEPARATOR.split(items) if (name := _clean(item)) in _NAMES}
    if not labels and _NOTHING.search(items):
        return frozenset({NO_FINDING})
    return frozenset(labels - {NO_FINDING} or labels)


def findings(answer: str) -> list[str]:
    """Findings of a list in its order, each once, without marks, brackets and a heading before a colon.

    A finding is the CheXpert label that its words state, or its own words in lower case.
    """
    items = re.split(r"[,;\n]", without_marks(answer).rsplit(":", 1)[-1])
    return list(dict.fromkeys(canonical(name) for item in items if (name := _clean(item))))


def finding(text: str) -> str:
    """The one finding that a text names, as in `X ✅`; empty if it names none or several."""
    names = findings(text)
    return names[0] if len(names) == 1 else ""


@lru_cache(maxsize=65536)
def canonical(name: str) -> str:
    """The CheXpert label if the labeler finds exactly one stated in these words, otherwise the words in lower case.

    "enlarged heart" is Cardiomegaly; "no effusion" states nothing and stays as it is.
    """
    lower = name.lower()
    if lower in _NAMES:
        return _NAMES[lower]
    stated = [title for title, value in label(name).items() if value == 1 and title != NO_FINDING]
    return stated[0] if len(stated) == 1 else lower


def _clean(item: str) -> str:
    return " ".join(item.strip(" []().\t").lower().split())
