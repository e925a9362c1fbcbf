"""Rewards by name and mode."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from diagcot.data.prompts import answer_of
from diagcot.metrics.text import Rarity
from diagcot.metrics.tokens import words
from diagcot.rewards import classification, cxmind, grounding, report
from diagcot.rewards.names import MODES
from diagcot.rewards.score import Reference, Reward, Score

_ONE: dict[tuple[str, str], Callable[..., Score]] = {
    ("classification", "released"): classification.released,
    ("classification", "curriculum"): classification.curriculum,
    ("grounding", "released"): grounding.released,
    ("grounding", "matched"): grounding.matched,
    ("closed", "released"): partial(cxmind.closed, checked=False),
    ("closed", "checked"): cxmind.closed,
    ("open", "released"): partial(cxmind.opened, checked=False),
    ("open", "checked"): cxmind.opened,
}
_CORPUS_LIMIT = 20_000  # references that CIDEr's word rarity is taken from; more change it by less than its own noise


def reward(name: str, mode: str, corpus: Iterable[Reference] = ()) -> Reward:
    """The reward `name` in `mode` (see `names.MODES`) as a batch function that pickles, so that a worker can hold it.

    `corpus` are the training references; only the clinical report reward looks at them. Raises ValueError for an
    unknown name or mode.
    """
    if mode not in MODES.get(name, ()):
        known = ", ".join(f"{reward}/{mode}" for reward, modes in MODES.items() for mode in modes)
        raise ValueError(f"there is no reward {name}/{mode}; there are {known}")
    if name == "report":
        if mode == "released":
            return report.released
        texts = [words(answer_of(item.answer)) for item, _ in zip(corpus, range(_CORPUS_LIMIT), strict=False)]
        if len(set(texts)) < 2:
            raise ValueError(
                "the clinical report reward weighs words by rarity: give at least two different references"
            )
        return partial(report.clinical, rarity=Rarity.of(texts))
    return partial(_each, _ONE[name, mode])


def _each(
    score: Callable[..., Score], outputs: Sequence[str], references: Sequence[Reference], progress: float = 0.0
) -> list[Score]:
    return [score(output, reference, progress) for output, reference in zip(outputs, references, strict=True)]
