"""The order of an interleaved trace: a verdict stands after what it is founded on.

A model writes from left to right. What it learns from a verdict that stands before its evidence is to guess.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from diagcot.data.study import CHEXPERT_LABELS
from diagcot.tasks.questions.worked_answers import says_no, without_option
from diagcot.text import labels
from diagcot.text.options import LETTERS, named, without_marks

_LUNGS = (
    r"lung|lobe|lobar|zone|hilum|hilar|\bbas(?:e|al)|airspace|parenchym|opaci|infiltrat|vascul|vessel|interstiti|nodul"
    r"|\bmass"
)
_PLEURA = r"pleura|effusion|costophrenic|fluid|pneumothora|\bap(?:ex|ical|ices)"
_HEART = r"heart|cardi|mediastin|silhouette|aort"
_REGION = {
    **dict.fromkeys(CHEXPERT_LABELS[1:], re.compile(_LUNGS)),
    **dict.fromkeys(("Enlarged Cardiomediastinum", "Cardiomegaly"), re.compile(_HEART)),
    **dict.fromkeys(("Pneumothorax", "Pleural Effusion", "Pleural Other"), re.compile(_PLEURA)),
    "Fracture": re.compile(r"\bbon|osseous|\brib|spine|vertebra|clavic|skelet|fractur"),
    "Support Devices": re.compile(r"device|tube|\blines?\b|catheter|pacemaker|wire|\blead|\bport\b|clip|drain|valve"),
}
"""CheXpert label -> words of the finding and of the region where it is seen, in lower case."""


def judged_before_seen(pairs: Sequence[Sequence[str]], meta: Mapping[str, Any]) -> str:
    """The first verdict that stands before what it is founded on, as a clause that completes "because …"; empty if none.

    No thought up to a verdict mentions a CheXpert label that it is about, or the region of the label; or an option or
    hypothesis that says no (No, None, Neither, No Finding) is judged before another one. pairs: (thought, answer) of an
    interleaved trace. meta: of the question; `options` are the texts of a closed one, `label` is what a binary one asks.
    """
    options = meta.get("options", ())
    steps = pairs[:-1] if options else pairs[1:-1]
    subjects = [_subject(answer, options) for _, answer in steps]
    denials = [bool(subject) and says_no(subject) for subject in subjects]
    for place, (subject, denial) in enumerate(zip(subjects, denials, strict=True)):
        if denial and not all(denials[place:]):
            return f"{subject} is judged before the options or findings on which it depends"
        thoughts = " ".join(without_option(think) for think, _ in pairs[: place + (1 if options else 2)]).lower()
        asked = [meta["label"]] if subject == "Yes" and "label" in meta else labels.findings(subject)
        for name in asked:
            if name in _REGION and name.lower() not in thoughts and not _REGION[name].search(thoughts):
                return f"{subject} is judged before a thought is about {name.lower()}"
    return ""


def _subject(answer: str, options: Sequence[str]) -> str:
    """The text of the option, or the hypothesis, that a step judges."""
    if not options:
        return without_marks(answer).strip()
    letter = named(answer)
    return options[LETTERS.index(letter)] if letter and LETTERS.index(letter) < len(options) else ""
