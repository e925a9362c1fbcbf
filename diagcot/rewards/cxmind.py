"""CX-Mind's rewards of interleaved traces, closed (one option of A to G) and open (a list of diseases), method.md 8.3.

Both return the base reward 0.1 format + 0.9 accuracy as "overall", and the terms "process" and "reason", which
`diagcot.rewards.gate.Gate` adds while training is stable. The reference is the whole gold trace.
"""

import re

from diagcot.metrics.meteor.porter import stem
from diagcot.metrics.text import common_subsequence, sentence_bleu
from diagcot.rewards import layout
from diagcot.rewards.layout import Pair
from diagcot.rewards.score import Reference, Score

_RIGHT, _WRONG = "✅", "❌"
_OPTION_AS_RELEASED = re.compile(r"[A-G]", re.IGNORECASE)
_LETTERED = re.compile(r"\b([A-G])\s*[).:]")
_STANDING = re.compile(r"\b([A-G])\b")
_MARKS = re.compile(rf"[{_RIGHT}{_WRONG}]")


def _likeness(think: str, gold: str) -> float:
    """0.3 BLEU-1 + 0.7 ROUGE-L of two thinks, 0 to 1.

    BLEU's words are small letters with points split off; ROUGE-L is the F1 of stems of letters and digits alone.
    """
    ours, theirs = ([" ".join(text.lower().replace(".", " . ").split())] for text in (think, gold))
    bleu = float(sentence_bleu(ours, theirs)[0, 0])
    stems, gold_stems = _stems(think), _stems(gold)
    common = common_subsequence(stems, gold_stems)
    rouge = 2 * common / (len(stems) + len(gold_stems)) if common else 0.0
    return min(1.0, 0.3 * bleu + 0.7 * rouge)


def _stems(text: str) -> list[str]:
    """Words of letters and digits, those of more than three as their stems (ROUGE's own tokens)."""
    return [stem(word) if len(word) > 3 else word for word in re.findall(r"[a-z0-9]+", text.lower())]


def _base(form: bool, accuracy: float, process: float, reason: float) -> Score:
    overall = 0.1 * form + 0.9 * accuracy
    return {"overall": overall, "format": float(form), "accuracy": accuracy, "process": process, "reason": reason}


def _option_as_released(text: str) -> str:
    """The first letter A to G of any word: "The answer is C" gives E (method.md 13.5)."""
    found = _OPTION_AS_RELEASED.search(text)
    return found.group().upper() if found else ""


def _option(text: str) -> str:
    """The letter before a bracket, point or colon, as in `B) ❌`; else the last capital A to G that stands alone."""
    lettered = _LETTERED.search(text)
    standing = _STANDING.findall(text)
    return lettered.group(1) if lettered else standing[-1] if standing else ""


def _marked_rightly(text: str, right: bool) -> bool:
    marks = set(_MARKS.findall(text))
    return marks == ({_RIGHT} if right else {_WRONG})


def closed(
    output: str,
    reference: Reference,
    progress: float = 0.0,
    *,
    process: float = 0.5,
    reason: float = 1.0,
    checked: bool = True,
) -> Score:
    """Accuracy is whether the last pair's option is the gold one; process pays `process` (code 0.5, paper 0.2) if
    every pair is marked rightly; reason compares the think about the gold option with the gold trace's.

    `checked` closes the holes of the release (method.md 13.4, 13.5): all options of the gold trace must be judged, a
    repeated or empty think earns neither format nor process, and letters are read only where they stand for an option.
    """
    option = _option if checked else _option_as_released
    steps, gold_steps = layout.pairs(output), layout.pairs(reference.answer)
    if not gold_steps:
        raise ValueError("the reference of a closed question is no interleaved trace that ends in its option")
    gold = option(gold_steps[-1].answer)
    correct = bool(steps) and option(steps[-1].answer) == gold
    form = layout.interleaved(output) if checked else layout.interleaved_as_released(output)
    marks = bool(steps) and all(_marked_rightly(step.answer, option(step.answer) == gold) for step in steps)
    if checked:
        judged = {option(step.answer) for step in steps[:-1]}
        marks = marks and form and judged >= {option(step.answer) for step in gold_steps[:-1]}
    likeness = 0.0
    if correct:
        ours = next(step.think for step in steps if option(step.answer) == gold)
        likeness = _likeness(ours, next(step.think for step in gold_steps if option(step.answer) == gold))
    return _base(form, float(correct), process if marks else 0.0, reason * likeness)


def _diseases_as_released(text: str) -> frozenset[str]:
    return frozenset(part.strip().lower() for part in re.split(r"[,;\n]", text) if part.strip())


def _diseases(text: str) -> frozenset[str]:
    """Diseases of a list, without marks, brackets, a heading before a colon, or a closing point."""
    text = _MARKS.sub("", text).rsplit(":", 1)[-1]
    return frozenset(
        name for part in re.split(r"[,;\n]", text) if (name := " ".join(part.lower().strip(" []().").split()))
    )


def _f1(predicted: frozenset[str], truth: frozenset[str]) -> float:
    total = len(predicted) + len(truth)
    return 2 * len(predicted & truth) / total if total else 1.0


def opened(
    output: str,
    reference: Reference,
    progress: float = 0.0,
    *,
    process: float = 0.2,
    reason: float = 1.0,
    checked: bool = True,
) -> Score:
    """Accuracy is the F1 of the last pair's diseases; process pays `process` if there are more than two pairs and
    every middle one is marked rightly; reason compares the thinks about present diseases with the gold ones.

    `checked` closes the holes of the release (method.md 13.4, 13.6): a middle step is about one of the diseases that
    the first pair lists and all present ones must be among them, so absent diseases alone earn nothing, and gold steps
    are found by their disease instead of the gold summary standing in for them.
    """
    names = _diseases if checked else _diseases_as_released
    steps, gold_steps = layout.pairs(output), layout.pairs(reference.answer)
    if not gold_steps:
        raise ValueError("the reference of an open question is no interleaved trace that ends in its diseases")
    truth = names(gold_steps[-1].answer)
    accuracy = _f1(names(steps[-1].answer), truth) if steps else 0.0
    form = layout.interleaved(output) if checked else layout.interleaved_as_released(output)
    middle = [(step, _subject(step)) for step in steps[1:-1]]
    marks = len(steps) > 2 and all(_marked_rightly(step.answer, subject in truth) for step, subject in middle)
    if checked and marks:
        subjects = [subject for _, subject in middle]
        marks = form and len(set(subjects)) == len(subjects) and truth <= set(subjects) <= names(steps[0].answer)
    reasons = []
    for step, subject in middle:
        if subject in truth and _marked_rightly(step.answer, True):
            about = (other for other in gold_steps if subject in names(other.answer))
            if checked:
                about = (other for other in gold_steps[1:-1] if _subject(other) == subject)
            gold = next(about, gold_steps[-1])
            reasons.append(_likeness(step.think, gold.think))
    return _base(form, accuracy, process if marks else 0.0, reason * sum(reasons) / max(1, len(reasons)))


def _subject(step: Pair) -> str:
    """The disease that a middle step judges: `X ✅` or `X ❌`."""
    return " ".join(_MARKS.sub("", step.answer).lower().strip(" .").split())
