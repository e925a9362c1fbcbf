"""A rule-based labeler: the 14 CheXpert labels of a report, from mentions, negations and expressions of doubt.

It follows NegBio (Peng et al. 2018, arXiv:1712.05898) and the CheXpert labeler (Irvin et al. 2019, arXiv:1901.07031);
phrases and scopes are written for this project. `diagcot.data.labeler_accuracy` measures it.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from diagcot.data.reports import label_rules as rules
from diagcot.data.study import CHEXPERT_LABELS

_SENTENCE = re.compile(r"(?<!\d)\.(?!\d)|\.(?=\s)|[!?\n]+")
_SCOPE = 110  # characters before and after a mention in which a cue has an effect
_MENTION = {name: re.compile("|".join(f"(?:{p})" for p in rules.MENTIONS[name])) for name in rules.MENTIONS}
_NORMAL = {name: re.compile("|".join(f"(?:{p})" for p in rules.NORMAL[name])) for name in rules.NORMAL}


class Mention(NamedTuple):
    """A mention of a label in a sentence. A phrase of normality ("heart size is normal") mentions its label as negated."""

    label: str
    status: int  # 1 present, 0 negated, -1 in doubt
    start: int  # of the mention's first character in the sentence
    end: int


def label(text: str) -> dict[str, int]:
    """Labels of a report: 1 present, 0 negated, -1 in doubt; a label that is not mentioned is not in the result.

    Of several mentions, present takes precedence over doubt, and doubt over negated. `No Finding` is 1 if nothing except
    support devices is present or in doubt. An empty text has no labels.
    """
    labels: dict[str, int] = {}
    for name, status, _ in mentions(text):
        if name not in labels or _RANK[status] > _RANK[labels[name]]:
            labels[name] = status
    abnormal = any(value for name, value in labels.items() if name != "Support Devices")
    if not abnormal and any(_sentences(text)):
        labels["No Finding"] = 1
    return {name: labels[name] for name in CHEXPERT_LABELS if name in labels}


def mentions(text: str) -> Iterator[tuple[str, int, str]]:
    """(label, its status, sentence in lower case) of every mention of a label, sentence by sentence."""
    for sentence in _sentences(text):
        for mention in mentions_in(sentence):
            yield mention.label, mention.status, sentence


@lru_cache(maxsize=65536)  # reports repeat their sentences
def mentions_in(sentence: str) -> tuple[Mention, ...]:
    """The mentions of labels in one sentence in lower case."""
    stated = [
        Mention(name, _status(sentence, match.start(), match.end()), *match.span())
        for name, mention in _MENTION.items()
        for match in mention.finditer(sentence)
    ]
    normal = ((name, match) for name, phrase in _NORMAL.items() if (match := phrase.search(sentence)))
    return (*stated, *(Mention(name, 0, *match.span()) for name, match in normal))


def _sentences(text: str) -> list[str]:
    return [words for part in _SENTENCE.split(text) if (words := " ".join(part.lower().split()))]


_RANK = {0: 0, -1: 1, 1: 2}


def _status(sentence: str, start: int, end: int) -> int:
    """1, 0 or -1 for the mention at `start` to `end`, from the cues whose scope includes it."""
    before = _tail(sentence[max(0, start - _SCOPE) : start], rules.ENDS)
    mention, after = sentence[start:end], sentence[end : end + _SCOPE]
    stop = rules.ENDS.search(after)
    after = after[: stop.start()] if stop else after
    negation = rules.NO_CHANGE.sub(" ", _tail(before, rules.NEGATION_ENDS)) + mention
    if rules.UNCERTAIN_AFTER.search(after):
        return -1
    if rules.NEGATED_BEFORE.search(negation) or rules.NEGATED_AFTER.search(after):
        return 0
    uncertain = rules.UNCERTAIN_BEFORE.search(rules.SURE.sub(" ", before)) or rules.UNCERTAIN_BEFORE.search(mention)
    return -1 if uncertain else 1


def _tail(text: str, ends: re.Pattern[str]) -> str:
    """The text after the last match of `ends`."""
    last = 0
    for stop in ends.finditer(text):
        last = stop.end()
    return text[last:]
