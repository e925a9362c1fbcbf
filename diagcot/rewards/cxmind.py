"""CX-Mind's rewards of interleaved traces (arXiv:2508.03733): closed (one option of A to G) and open (a list of diseases).

Both return the base reward 0.1 format + 0.9 accuracy as "overall", and the terms "process" and "reason", which
`diagcot.rewards.gate.Gate` adds while training is stable. The reference is the whole gold trace. Source: the reward functions
of SII-WenjieLisjtu/CX-Mind.
"""

import re
from collections.abc import Sequence

from diagcot.metrics.sets import f1
from diagcot.metrics.stems import stem
from diagcot.metrics.text import common_subsequence, sentence_bleu
from diagcot.rewards import released as published
from diagcot.rewards.score import Reference, Score
from diagcot.text import labels, layout, options
from diagcot.text.layout import Pair


def closed(
    output: str,
    reference: Reference,
    progress: float = 0.0,
    *,
    process: float = 0.5,
    reason: float = 1.0,
    checked: bool = True,
) -> Score:
    """Accuracy is 1 if the last pair chooses the gold option; process pays `process` if every pair has the right mark;
    reason compares the think about the gold option with the gold trace's. `process` is 0.5 in the code, 0.2 in the paper.

    `checked` closes the holes of the release: all options of the gold trace must be judged, a repeated or empty think earns
    neither format nor process, options are read as evaluation reads them, and a last pair that marks its option as wrong
    chooses nothing. Raises ValueError if the reference is not such a trace.
    """
    steps, gold_steps = layout.pairs(output), layout.pairs(reference.answer)
    named = options.named if checked else published.option
    chosen = options.chosen if checked else published.option
    gold = named(gold_steps[-1].answer) if gold_steps else ""
    if not gold_steps or (checked and not gold):
        raise ValueError("the reference of a closed question must be an interleaved trace that ends in its option")
    correct = bool(steps) and chosen(steps[-1].answer) == gold
    in_layout = layout.is_interleaved(output) if checked else published.is_interleaved(output)
    judged = bool(steps) and all(options.mark(step.answer) is (named(step.answer) == gold) for step in steps)
    if checked and judged:
        judged = in_layout and _named(steps[:-1]) >= _named(gold_steps[:-1])
    likeness = 0.0
    if correct:
        ours, theirs = (
            next(step.think for step in trace if named(step.answer) == gold) for trace in (steps, gold_steps)
        )
        likeness = _likeness(ours, theirs)
    return _score(in_layout, float(correct), process if judged else 0.0, reason * likeness)


def opened(
    output: str,
    reference: Reference,
    progress: float = 0.0,
    *,
    process: float = 0.2,
    reason: float = 1.0,
    checked: bool = True,
) -> Score:
    """Accuracy is the F1 of the last pair's diseases; process pays `process` if there are more than two pairs and every
    middle one has the right mark; reason compares the thinks about present diseases with the gold ones.

    `checked` closes the holes of the release: a middle step is about one of the diseases that the first pair lists and all
    present ones must be among them, so absent diseases alone earn nothing; gold steps are found by their disease, where the
    release compares with the gold summary; diseases are read as evaluation reads them, synonyms included. Raises ValueError
    if the reference is not an interleaved trace.
    """
    steps, gold_steps = layout.pairs(output), layout.pairs(reference.answer)
    if not gold_steps:
        raise ValueError("the reference of an open question must be an interleaved trace that ends in its diseases")
    diseases = _findings if checked else published.diseases
    subject = labels.finding if checked else published.subject
    truth = diseases(gold_steps[-1].answer)
    accuracy = f1(diseases(steps[-1].answer), truth) if steps else 0.0
    in_layout = layout.is_interleaved(output) if checked else published.is_interleaved(output)
    middle = [(step, subject(step.answer)) for step in steps[1:-1]]
    judged = bool(middle) and all(options.mark(step.answer) is (name in truth) for step, name in middle)
    if checked and judged:
        names = [name for _, name in middle]
        judged = in_layout and len(set(names)) == len(names) and truth <= set(names) <= diseases(steps[0].answer)
    likenesses = [
        _likeness(step.think, _gold_think(name, gold_steps, checked))
        for step, name in middle
        if name in truth and options.mark(step.answer)
    ]
    likeness = sum(likenesses) / max(1, len(likenesses))
    return _score(in_layout, accuracy, process if judged else 0.0, reason * likeness)


def _named(steps: Sequence[Pair]) -> set[str]:
    return {options.named(step.answer) for step in steps}


def _findings(text: str) -> frozenset[str]:
    return frozenset(labels.findings(text))


def _gold_think(disease: str, gold_steps: Sequence[Pair], checked: bool) -> str:
    """The gold think about a disease; the gold summary if there is none."""
    if checked:
        about = (step for step in gold_steps[1:-1] if labels.finding(step.answer) == disease)
    else:
        about = (step for step in gold_steps if disease in published.diseases(step.answer))
    return next(about, gold_steps[-1]).think


def _likeness(think: str, gold: str) -> float:
    """0.3 BLEU-1 + 0.7 ROUGE-L of two thinks, 0 to 1.

    BLEU's words are lower case with full stops split off; ROUGE-L is the F1 of stems of letters and digits alone.
    """
    ours, theirs = ([" ".join(text.lower().replace(".", " . ").split())] for text in (think, gold))
    bleu = float(sentence_bleu(ours, theirs)[0, 0])
    stems, gold_stems = _stems(think), _stems(gold)
    common = common_subsequence(stems, gold_stems)
    rouge = 2 * common / (len(stems) + len(gold_stems)) if common else 0.0
    return min(1.0, 0.3 * bleu + 0.7 * rouge)


def _stems(text: str) -> list[str]:
    """Words of letters and digits, those of more than three characters as their stems (ROUGE's own tokens)."""
    return [stem(word) if len(word) > 3 else word for word in re.findall(r"[a-z0-9]+", text.lower())]


def _score(in_layout: bool, accuracy: float, process: float, reason: float) -> Score:
    overall = 0.1 * in_layout + 0.9 * accuracy
    return {"overall": overall, "format": float(in_layout), "accuracy": accuracy, "process": process, "reason": reason}
