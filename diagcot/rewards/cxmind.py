"""CX-Mind's rewards of interleaved traces (arXiv:2508.03733) without the holes of the release: closed (one option of A to
G) and open (a list of diseases).

Both return the base reward 0.1 format + 0.9 accuracy as "overall", and the terms "process" and "reason", which
`diagcot.rewards.gate.Gate` adds while training is stable. The reference is the whole gold trace. Options and diseases are
read as evaluation reads them, synonyms included; format and process need a reasoning in every think. The published
formulas are `diagcot.rewards.released.cxmind`.
"""

import re
from collections.abc import Mapping, Sequence

from diagcot.data.reports.labeler import label
from diagcot.data.study import CHEXPERT_LABELS
from diagcot.metrics.sets import specific_f1
from diagcot.rewards.released.cxmind import likeness, score
from diagcot.rewards.score import Reference, Score
from diagcot.text import labels, layout, options
from diagcot.text.layout import Pair

_WORD = re.compile(r"[^\W\d_]{2,}")


def closed(output: str, reference: Reference, progress: float = 0.0, *, process: float = 0.5) -> Score:
    """Accuracy is 1 if the last pair chooses the gold option; process pays `process` if all options of the gold trace are
    judged, all marks before the last pair are right, and the choice is; reason compares the think about the gold option,
    if it ends in ✅, with the gold trace's. `process` is 0.5 in CX-Mind's code, 0.2 in its paper.

    Raises ValueError if the reference is not a trace that ends in its option.
    """
    steps, gold_steps = layout.pairs(output), layout.pairs(reference.answer)
    gold = options.named(gold_steps[-1].answer, reference.options) if gold_steps else ""
    if not gold:
        raise ValueError("the reference of a closed question must be an interleaved trace that ends in its option")
    correct = options.chosen(layout.last_answer(output), reference.options) == gold
    judged = [(step, options.named(step.answer, reference.options)) for step in steps[:-1]]
    in_layout = layout.is_reasoned_interleaved(output)
    marked = all(options.mark(step.answer) is (letter == gold) for step, letter in judged)
    every = {options.named(step.answer, reference.options) for step in gold_steps}
    complete = correct and marked and {letter for _, letter in judged} >= every
    paid = in_layout and complete and _speak_of(steps, gold_steps, reference)
    thinks = [step.think for step, letter in judged if letter == gold and options.mark(step.answer)]
    gold_thinks = [step.think for step in gold_steps if options.named(step.answer, reference.options) == gold]
    others = [step.think for step in gold_steps if options.named(step.answer, reference.options) != gold]
    like = _likeness(thinks[0], gold_thinks[0], others) if correct and thinks else 0.0
    return score(in_layout, float(correct), process * paid, like)


def opened(output: str, reference: Reference, progress: float = 0.0, *, process: float = 0.2) -> Score:
    """Accuracy is F1 times specificity of the last answer's diseases, times the share of distinct ones in its list, up to
    that of the reference's; process pays if every middle pair judges another disease that the first pair lists, all marks
    are right, all present diseases are among them, and something is refuted where the gold trace refutes something; reason
    is the mean over the present diseases of how like the gold think is the one about the disease, 0 for a disease without
    one.

    Words that no finding stands behind cannot be a middle pair's disease. Raises ValueError if the reference is not a trace.
    """
    steps, gold_steps = layout.pairs(output), layout.pairs(reference.answer)
    if not gold_steps:
        raise ValueError("the reference of an open question must be an interleaved trace that ends in its diseases")
    wanted, named = (labels.listed(layout.last_answer(text)) for text in (reference.answer, output))
    truth = frozenset(wanted)
    # A collection's own answer may name one label by two words ("chest tube, PICC"), and so may the reply to it.
    distinct = min(1.0, _distinct(named) / _distinct(wanted))
    accuracy = specific_f1(frozenset(named), truth, labels.ABNORMAL) * distinct
    in_layout = layout.is_reasoned_interleaved(output)
    middle = {labels.finding(step.answer): step for step in steps[1:-1]}
    gold_middle = {labels.finding(step.answer): step.think for step in gold_steps[1:-1]}
    known = truth | set(gold_middle)
    paid = (
        in_layout
        and _speak_of(steps, gold_steps, reference)
        and bool(middle)
        and len(middle) == len(steps) - 2
        and truth <= set(middle) <= set(labels.findings(steps[0].answer))
        and all(options.mark(step.answer) is (name in truth) for name, step in middle.items())
        and all(name in known or _is_finding(name) for name in middle)
        and (bool(set(middle) - truth) or not set(gold_middle) - truth)
    )
    like = [
        _likeness(middle[name].think, gold_middle.get(name, gold_steps[-1].think), _without(gold_middle, name))
        for name in sorted(truth)
        if name in middle and options.mark(middle[name].answer)
    ]
    return score(in_layout, accuracy, process * paid, sum(like) / max(1, len(truth)))


def _distinct(names: Sequence[str]) -> float:
    return len(set(names)) / len(names) if names else 1.0


def _without(thinks: Mapping[str, str], name: str) -> list[str]:
    return [think for other, think in thinks.items() if other != name]


def _likeness(think: str, gold: str, others: Sequence[str]) -> float:
    """Likeness of a think to a gold one, 0 to 1; 0 without any of the words that the gold one does not share with others.

    Where gold thinks repeat one sentence with another name in it, the sentence alone earns nothing.
    """
    own = _words(gold) - set().union(*map(_words, others))
    return likeness(think, gold) if not own or own & _words(think) else 0.0


def _speak_of(steps: Sequence[Pair], gold_steps: Sequence[Pair], reference: Reference) -> bool:
    """Whether every think has a word of the gold trace or of its options; thinks of foreign words are no process.

    True where the gold trace has marks and answers without reasonings, as the filter's rules make it.
    """
    known = _words(" ".join((reference.answer, *reference.options)))
    reasoned = all(layout.is_reasoning(step.think) for step in gold_steps)
    return not reasoned or all(known & _words(step.think) for step in steps)


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))


def _is_finding(name: str) -> bool:
    """Whether words name a label, or something that the labeler does not take for a normal image."""
    return name in CHEXPERT_LABELS or label(name).get(labels.NO_FINDING) != 1
