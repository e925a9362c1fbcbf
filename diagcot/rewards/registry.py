"""Rewards by name and mode."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from diagcot.metrics.meteor import meteor
from diagcot.metrics.text import Rarity
from diagcot.metrics.tokens import words
from diagcot.rewards import classification, cxmind, external, grounding, report
from diagcot.rewards.names import MODES, STYLES
from diagcot.rewards.released import classification as released_classification
from diagcot.rewards.released import cxmind as released_cxmind
from diagcot.rewards.released import grounding as released_grounding
from diagcot.rewards.released import report as released_report
from diagcot.rewards.score import Reference, Reward, Score
from diagcot.text.layout import first_answer

_SINGLE: dict[tuple[str, str], Callable[..., Score]] = {
    ("classification", "curriculum"): classification.curriculum,
    ("classification", "released"): released_classification.released,
    ("grounding", "matched"): grounding.matched,
    ("grounding", "overlap_f1"): grounding.overlap_f1,
    ("grounding", "released"): released_grounding.released,
    ("grounding", "graded"): partial(released_grounding.released, graded=True),
    ("grounding_pixels", "matched"): grounding.pixels,
    ("closed", "checked"): cxmind.closed,
    ("closed", "paper"): partial(cxmind.closed, process=0.2),
    ("closed", "released"): released_cxmind.closed,
    ("closed", "think"): partial(released_cxmind.closed, process=0.0),
    ("closed", "answer"): partial(released_cxmind.closed, process=0.0, reason=0.0),
    ("open", "checked"): cxmind.opened,
    ("open", "released"): released_cxmind.opened,
    ("open", "think"): partial(released_cxmind.opened, process=0.0),
    ("open", "answer"): partial(released_cxmind.opened, process=0.0, reason=0.0),
}
_REPORT: dict[str, Reward] = {
    "released": released_report.released,
    "whole": partial(released_report.released, whole=True),
    "repetition": partial(released_report.released, repetition=True),
    "spine": partial(released_report.released, spine=True),
}
_CORPUS_LIMIT = 20_000  # references that CIDEr's word rarity is taken from; more change it by less than its own noise


def reward(name: str, mode: str, corpus: Iterable[Reference] = ()) -> Reward:
    """The reward `name` in `mode` (see `names.MODES`) as a batch function that pickles, so that a worker process can hold it.

    `corpus` are the training references, which only the clinical report reward uses. A `name` like
    `file.py:function` is another project's reward, and `mode` the style in which it is called. Raises ValueError for an
    unknown name or mode, MeteorError if a report reward cannot compute METEOR, UserError for an external reward that is unusable.
    """
    if mode in STYLES:
        return external.load(name, mode)
    if mode not in MODES.get(name, ()):
        known = ", ".join(f"{reward}/{mode}" for reward, modes in MODES.items() for mode in modes)
        raise ValueError(f"there is no reward {name}/{mode}; there are {known}")
    if name != "report":
        return partial(_each, _SINGLE[name, mode])
    meteor.load()
    if mode != "clinical":
        return _REPORT[mode]
    texts = [words(first_answer(item.answer)) for item, _ in zip(corpus, range(_CORPUS_LIMIT), strict=False)]
    if len(set(texts)) < 2:
        raise ValueError("the clinical report reward weighs words by rarity: give at least two different references")
    return partial(report.clinical, rarity=Rarity.of(texts))


def _each(
    score: Callable[..., Score], outputs: Sequence[str], references: Sequence[Reference], progress: float = 0.0
) -> list[Score]:
    return [score(output, reference, progress) for output, reference in zip(outputs, references, strict=True)]
