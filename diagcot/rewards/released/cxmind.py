"""CX-Mind's rewards of interleaved traces: closeQA+think+ans.py and openQA+think+ans.py of the release.

Both return the base reward, 0.1 format + 0.9 accuracy, and the terms `process` and `reason`, which `diagcot.rewards.gate.Gate`
adds. The reference is the whole gold trace. `process` and `reason` may be 0, as in the release's ablations.
"""

import re
from collections import Counter
from collections.abc import Sequence
from math import exp

from diagcot.metrics.sets import f1
from diagcot.metrics.text import common_subsequence
from diagcot.rewards.released import layout
from diagcot.rewards.released.porter import stem
from diagcot.rewards.score import Reference, Score
from diagcot.text.layout import Pair, pairs
from diagcot.text.options import RIGHT, WRONG

_SIGN_OF_TAGS = re.compile(r"([<>/])")
_OPTION = re.compile(r"[A-G]", re.IGNORECASE)
_MARKS = re.compile(f"[{RIGHT}{WRONG}]")


def closed(
    output: str, reference: Reference, progress: float = 0.0, *, process: float = 0.5, reason: float = 1.0
) -> Score:
    """Accuracy is 1 if the last pair has the gold option's letter; process pays if every pair has its right mark; reason
    compares the first think about the gold option with the gold trace's, to four decimals.
    """
    steps, gold_steps = pairs(output), pairs(reference.answer)
    gold = option(gold_steps[-1].answer) if gold_steps else ""
    correct = bool(steps and gold) and option(steps[-1].answer) == gold
    judged = bool(steps and gold) and all(_judged(step.answer, option(step.answer) == gold) for step in steps)
    likeness = 0.0
    if correct:
        ours, theirs = (
            next(step.think for step in trace if option(step.answer) == gold) for trace in (steps, gold_steps)
        )
        if ours and theirs:
            words, gold_words = (text.lower().replace(".", " .").split(" ") for text in (ours, theirs))
            likeness = 0.3 * round(_bleu(words, gold_words), 4) + 0.7 * round(_rouge(ours, theirs), 4)
    in_layout = layout.is_interleaved(output)
    return score(in_layout, float(correct), process * judged, reason * likeness)


def opened(
    output: str, reference: Reference, progress: float = 0.0, *, process: float = 0.2, reason: float = 1.0
) -> Score:
    """Accuracy is the F1 of the last answer's diseases; process pays if there are more than two pairs and every middle one
    has its right mark; reason compares the thinks about present diseases with those of the gold pairs that name them.

    A gold step "edema ✅" does not name "edema", so the think is compared with the gold summary.
    """
    steps, gold_steps = pairs(output), pairs(reference.answer)
    truth = _last_diseases(reference.answer)
    middle = [(step, _MARKS.sub("", step.answer).strip().lower()) for step in steps[1:-1]]
    judged = bool(middle) and all(_judged(step.answer, name in truth) for step, name in middle)
    likenesses = [
        likeness(step.think, gold)
        for step, name in middle
        if name in truth and RIGHT in step.answer and (gold := _gold_think(name, gold_steps))
    ]
    reasons = sum(likenesses) / max(1, len(likenesses))
    # The release removes blanks around the signs of tags first.
    in_layout = layout.is_interleaved("".join(part.strip() for part in _SIGN_OF_TAGS.split(output)))
    return score(in_layout, f1(_last_diseases(output), truth), process * judged, reason * reasons)


def option(text: str) -> str:
    """First letter A to G of any word, in either case: "The answer is C" gives E."""
    match = _OPTION.search(text)
    return match.group().upper() if match else ""


def diseases(text: str) -> frozenset[str]:
    """Parts between commas, semicolons and line ends in lower case, marks and headings included."""
    return frozenset(part.strip().lower() for part in re.split(r"[,;\n]", text) if part.strip())


def likeness(think: str, gold: str) -> float:
    """0.3 BLEU-1 + 0.7 ROUGE-L of two thinks, 0 to 1: BLEU of words in lower case with full stops split off, and ROUGE-L
    the F1 of Porter stems.
    """
    words, gold_words = (text.lower().replace(".", " .").split() for text in (think, gold))
    return 0.3 * _bleu(words, gold_words) + 0.7 * _rouge(think, gold)


def score(in_layout: bool, accuracy: float, process: float, reason: float) -> Score:
    """The components of either reward."""
    overall = 0.1 * in_layout + 0.9 * accuracy
    return {"overall": overall, "format": float(in_layout), "accuracy": accuracy, "process": process, "reason": reason}


def _judged(answer: str, present: bool) -> bool:
    """Whether an answer has the right mark, whatever else it has."""
    return (RIGHT if present else WRONG) in answer


def _last_diseases(text: str) -> frozenset[str]:
    blocks = layout.answers(text)
    return diseases(blocks[-1]) if blocks else frozenset()


def _gold_think(disease: str, gold_steps: Sequence[Pair]) -> str:
    """The think of the first gold pair that lists the disease, empty if none does."""
    return next((step.think for step in gold_steps if disease in diseases(step.answer)), "")


def _bleu(words: Sequence[str], gold: Sequence[str]) -> float:
    """BLEU-1 of one text, without smoothing."""
    shared = (Counter(words) & Counter(gold)).total()
    return shared / len(words) * exp(min(0.0, 1 - len(gold) / len(words))) if shared else 0.0


def _rouge(think: str, gold: str) -> float:
    """ROUGE-L F1 of the stems of letters and digits; words of up to three characters are their own stems."""
    ours, theirs = (
        [stem(word) if len(word) > 3 else word for word in re.findall(r"[a-z0-9]+", text.lower())]
        for text in (think, gold)
    )
    common = common_subsequence(ours, theirs)
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0
