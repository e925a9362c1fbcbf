"""CheXpert labels and other findings that an answer lists."""

import re
from functools import lru_cache

from diagcot.data.reports.labeler import label
from diagcot.data.study import CHEXPERT_LABELS
from diagcot.text.options import WRONG, without_marks

NO_FINDING = "No Finding"
ABNORMAL = frozenset(CHEXPERT_LABELS) - {NO_FINDING}
"""The labels of something that is there; No Finding excludes all of them but Support Devices."""

_NAMES = {name.lower(): name for name in CHEXPERT_LABELS}
_SEPARATOR = re.compile(r"[,;\n•]|\band\b", re.IGNORECASE)
_BULLET = re.compile(r"^[^\S\n]*(?:[-*–·]|\d+[.)])\s+", re.MULTILINE)
_EMPHASIS = re.compile(r"\*\*|__|`")
_NOTHING = re.compile(r"\bno (?:[a-z]+ ){0,2}abnormalit(?:y|ies)\b", re.IGNORECASE)


def chexpert(answer: str) -> frozenset[str]:
    """CheXpert labels among the findings that an answer lists; `No Finding` counts only if no other label is named."""
    labels = frozenset(listed(answer)) & frozenset(CHEXPERT_LABELS)
    return labels - {NO_FINDING} or labels


def findings(answer: str) -> list[str]:
    """Findings that an answer lists, in its order, each once."""
    return list(dict.fromkeys(listed(answer)))


def listed(answer: str) -> list[str]:
    """Items of the list after the last colon of an answer, repeats included, without bullets, emphasis, marks, brackets.

    Items stand between commas, semicolons, lines and "and". One with ❌ is refuted and not listed. An item is the CheXpert label
    that its words state, or its own words in lower case. DiagCoT's other sentence for No Finding ("No significant abnormalities
    were found", 56 of its GRPO samples) means the same where no label is named.
    """
    if WRONG in answer:
        parts = re.split(f"({_SEPARATOR.pattern})", answer, flags=re.IGNORECASE)
        answer = "".join(part for part in parts if WRONG not in part)
    text = _EMPHASIS.sub("", _BULLET.sub("", without_marks(answer))).rpartition(":")[2]
    items = [canonical(name) for item in _SEPARATOR.split(text) if (name := _clean(item))]
    if _NOTHING.search(text) and not any(item in CHEXPERT_LABELS for item in items):
        return [NO_FINDING]
    return items


def finding(text: str) -> str:
    """The one finding that a text names, whatever its mark, as in `X ✅`; empty if it names none or several."""
    names = findings(without_marks(text))
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
