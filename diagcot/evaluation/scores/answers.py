"""Scores of CX-Mind's questions: the option of a closed one, the list of findings of an open one (method.md 7.2, 9)."""

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from diagcot.data.reports.labeler import label
from diagcot.data.study import CHEXPERT_LABELS
from diagcot.evaluation.predictions import Prediction
from diagcot.metrics.intervals import Metric, mean
from diagcot.tasks.questions.worked_answers import LETTERS, RIGHT, WRONG

RECALL_AT = (1, 3, 5)
_MARKS = re.compile(f"[{RIGHT}{WRONG}]")
_LETTERED = re.compile(rf"\b([{LETTERS}])\s*[).:]")
_STANDING = re.compile(rf"\b([{LETTERS}])\b")
_LABELS = {name.lower(): name for name in CHEXPERT_LABELS}


def closed_metrics(rows: Sequence[Prediction]) -> dict[str, Metric | str]:
    """Accuracy of the chosen option; an answer that names none, or several, is a miss."""
    right = [chosen(row.answer, row.about["options"]) == row.about["option"] for row in rows]
    return {f"{rows[0].task}_accuracy": mean(np.array(right, dtype=np.float64))}


def chosen(answer: str, options: Sequence[str]) -> str:
    """The letter of the one option that an answer names by letter or by its words; empty where it names none or more.

    An answer that marks its option as wrong chooses nothing.
    """
    if WRONG in answer:
        return ""
    text = " ".join(_MARKS.sub(" ", answer).split())
    letters = set(_LETTERED.findall(text)) or set(_STANDING.findall(text))
    if len(letters) == 1:
        letter = letters.pop()
        return letter if LETTERS.index(letter) < len(options) else ""
    if letters:
        return ""
    low = text.lower().strip(" .")
    said = [at for at, option in enumerate(options) if option.lower() == low] or [
        at for at, option in enumerate(options) if re.search(rf"\b{re.escape(option.lower())}\b", low)
    ]
    return LETTERS[said[0]] if len(said) == 1 else ""


def open_metrics(rows: Sequence[Prediction]) -> dict[str, Metric | str]:
    """Set F1, exact sets, and recall among the first k findings of the list, all by sample; synonyms count as one."""
    pairs = [(findings(row.answer), findings(row.reference)) for row in rows]
    exact = [set(ours) == set(theirs) for ours, theirs in pairs]
    return {
        "open_f1": mean([_f1(set(ours), set(theirs)) for ours, theirs in pairs]),
        "open_exact": mean(np.array(exact, dtype=np.float64)),
        **{
            f"open_recall_{k}": mean([len(set(ours[:k]) & set(theirs)) / max(1, len(theirs)) for ours, theirs in pairs])
            for k in RECALL_AT
        },
    }


def findings(answer: str) -> list[str]:
    """The findings of a list in its order, each once: CheXpert's name where it is a word for one, else its own."""
    text = _MARKS.sub("", answer).rsplit(":", 1)[-1]
    parts = (" ".join(part.strip(" []().\t").split()) for part in re.split(r"[,;\n]", text))
    return list(dict.fromkeys(canonical(part) for part in parts if part))


@lru_cache(maxsize=65536)
def canonical(name: str) -> str:
    """CheXpert's label where the words state exactly one by the labeler's vocabulary, else the words in small letters.

    "enlarged heart" is Cardiomegaly; "no effusion" states nothing and stays as it is.
    """
    low = name.lower()
    if low in _LABELS:
        return _LABELS[low]
    stated = [found for found, value in label(name).items() if value == 1 and found != "No Finding"]
    return stated[0] if len(stated) == 1 else low


def _f1(ours: set[str], theirs: set[str]) -> float:
    total = len(ours) + len(theirs)
    return 2 * len(ours & theirs) / total if total else 1.0
