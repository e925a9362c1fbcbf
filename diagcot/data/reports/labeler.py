"""A rule-based labeler: the 14 CheXpert labels of a report, from mentions, denials and doubts (method.md 2.3).

After the idea of NegBio (Peng et al. 2018, arXiv:1712.05898) and the CheXpert labeler (Irvin et al. 2019,
arXiv:1901.07031), with phrases and reaches of this project's own.
`diagcot.data.labeler_accuracy` measures it.
"""

import re
from collections.abc import Iterator
from functools import lru_cache

from diagcot.data.reports import label_rules as rules
from diagcot.data.study import CHEXPERT_LABELS

_SENTENCE = re.compile(r"(?<!\d)\.(?!\d)|\.(?=\s)|[!?\n]+")
_REACH = 110  # characters on either side of a mention that a cue may stand off
_MENTION = {name: re.compile("|".join(f"(?:{p})" for p in rules.MENTIONS[name])) for name in rules.MENTIONS}
_NORMAL = {name: re.compile("|".join(f"(?:{p})" for p in rules.NORMAL[name])) for name in rules.NORMAL}


def label(text: str) -> dict[str, int]:
    """Labels of a report: 1 present, 0 denied, -1 in doubt; a label that is not mentioned is absent from the result.

    Of several mentions, present beats in doubt beats denied. `No Finding` is 1 where nothing but support devices is
    present or in doubt. An empty text has no labels.
    """
    found: dict[str, int] = {}
    for name, status, _ in mentions(text):
        _add(found, name, status)
    if found or any(_sentences(text)):
        ill = any(value for name, value in found.items() if name != "Support Devices")
        if not ill:
            found["No Finding"] = 1
    return {name: found[name] for name in CHEXPERT_LABELS if name in found}


def mentions(text: str) -> Iterator[tuple[str, int, str]]:
    """Every mention of a label in the order of the text: the label, its status, and the sentence in small letters."""
    for sentence in _sentences(text):
        for name, status in _stated(sentence):
            yield name, status, sentence


@lru_cache(maxsize=65536)  # reports repeat their sentences
def _stated(sentence: str) -> tuple[tuple[str, int], ...]:
    """The labels that a sentence in small letters mentions, and their status."""
    found = [
        (name, _status(sentence, match.start(), match.end()))
        for name, mention in _MENTION.items()
        for match in mention.finditer(sentence)
    ]
    return (*found, *((name, 0) for name, normal in _NORMAL.items() if normal.search(sentence)))


def _sentences(text: str) -> list[str]:
    return [words for part in _SENTENCE.split(text) if (words := " ".join(part.lower().split()))]


_RANK = {0: 0, -1: 1, 1: 2}


def _add(found: dict[str, int], name: str, status: int) -> None:
    if name not in found or _RANK[status] > _RANK[found[name]]:
        found[name] = status


def _status(sentence: str, start: int, end: int) -> int:
    """1, 0 or -1 for the mention at `start` to `end`, from the cues whose reach includes it."""
    before = _tail(sentence[max(0, start - _REACH) : start], rules.ENDS)
    mention, after = sentence[start:end], sentence[end : end + _REACH]
    stop = rules.ENDS.search(after)
    after = after[: stop.start()] if stop else after
    denial = rules.NO_CHANGE.sub(" ", _tail(before, rules.DENIAL_ENDS)) + mention
    if rules.DOUBTED_AFTER.search(after):
        return -1
    if rules.DENIED_BEFORE.search(denial) or rules.DENIED_AFTER.search(after):
        return 0
    doubted = rules.DOUBTED_BEFORE.search(rules.SURE.sub(" ", before)) or rules.DOUBTED_BEFORE.search(mention)
    return -1 if doubted else 1


def _tail(text: str, ends: re.Pattern[str]) -> str:
    """What follows the last match of `ends`."""
    last = 0
    for stop in ends.finditer(text):
        last = stop.end()
    return text[last:]
