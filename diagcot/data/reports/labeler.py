"""A rule-based labeler: the 14 CheXpert labels of a report, from mentions, negations and expressions of doubt.

It follows NegBio (Peng et al. 2018, arXiv:1712.05898) and the CheXpert labeler (Irvin et al. 2019, arXiv:1901.07031);
phrases and scopes are written for this project. `diagcot.data.labeler_accuracy` measures it.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from diagcot.data.reports import label_cues as cues
from diagcot.data.reports import label_rules as rules
from diagcot.data.reports.triggers import candidates
from diagcot.data.study import CHEXPERT_LABELS

Span = tuple[int, int]

# Begins with a set of characters, without which it would be tried at every character.
_SENTENCE = re.compile(
    r"[.!\n\s](?:(?<=\.)(?<!\bvs\.)(?:(?<!\d\.)(?!\d)|(?=\s))|(?<=[!\n])[!\n]*|(?<=\w\?\s)(?!\s*(?:no|none|yes)\b))"
)
_LEADERS = re.compile(r" ?\.{3,} ?")  # between a finding and its value, as in "effusion ..... none"
_SCOPE = 110  # characters before and after a mention in which a cue has an effect
_DEVICES = "Support Devices"


def _any(patterns: Sequence[str]) -> str:
    return "|".join(f"(?:{pattern})" for pattern in patterns)


_OTHER = ("other", "")
_PATTERNS = {
    **{("mention", name): _any(patterns) for name, patterns in rules.MENTIONS.items()},
    **{("normal", name): _any(patterns) for name, patterns in rules.NORMAL.items()},
    _OTHER: _any(rules.OTHER),
}
_COMPILED = {key: re.compile(pattern) for key, pattern in _PATTERNS.items()}
_MENTIONS, _NORMALS = ([key for key in _PATTERNS if key[0] == kind] for kind in ("mention", "normal"))
_candidates = candidates(_PATTERNS)
_WORD = re.compile(r"\b(?!x+\b)[a-z]{2,}")  # "xxxx" stands where a name was taken out


class Mention(NamedTuple):
    """A mention of a label in a sentence. A phrase of normality ("heart size is normal") mentions its label as negated."""

    label: str
    status: int  # 1 present, 0 negated, -1 in doubt
    start: int  # of the mention's first character in the sentence
    end: int


def label(text: str) -> dict[str, int]:
    """Labels of a report: 1 present, 0 negated, -1 in doubt; a label that is not mentioned is not in the result.

    Of several mentions, present takes precedence over doubt, and doubt over negated. `No Finding` is 1 if nothing except
    support devices is present or in doubt, be it one of the labels or another finding (`label_rules.OTHER`). A text
    without words has no labels.
    """
    labels: dict[str, int] = {}
    sentences = _sentences(text)
    for mention in (mention for sentence in sentences for mention in mentions_in(sentence)):
        name, status = mention.label, mention.status
        if name not in labels or _RANK[status] > _RANK[labels[name]]:
            labels[name] = status
    abnormal = any(value for name, value in labels.items() if name != _DEVICES)
    abnormal = abnormal or any(map(_other, sentences))
    if not abnormal and any(map(_WORD.search, sentences)):
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
    possible = _candidates(sentence)
    if not possible:
        return ()
    found = [
        (key[1], match.span()) for key in _MENTIONS if key in possible for match in _COMPILED[key].finditer(sentence)
    ]
    lists = _lists(sentence, [span for _, span in found])
    stated = [Mention(name, _status(sentence, span, lists, device=name == _DEVICES), *span) for name, span in found]
    normal = ((key, _COMPILED[key].search(sentence)) for key in _NORMALS if key in possible)
    return (*stated, *(Mention(key[1], 0, *match.span()) for key, match in normal if match))


@lru_cache(maxsize=65536)
def _other(sentence: str) -> bool:
    """Whether a sentence states, or does not exclude, a finding that has no label."""
    if _OTHER not in _candidates(sentence):
        return False
    spans = [match.span() for match in _COMPILED[_OTHER].finditer(sentence)]
    lists = _lists(sentence, spans)
    return any(_status(sentence, span, lists) for span in spans)


def _sentences(text: str) -> list[str]:
    return [words for part in _SENTENCE.split(_LEADERS.sub(": ", text.lower())) if (words := " ".join(part.split()))]


_RANK = {0: 0, -1: 1, 1: 2}


def _status(sentence: str, span: Span, lists: "Lists", *, device: bool = False) -> int:
    """1, 0 or -1 for the mention at `span`, from the cues whose scope includes it. lists: those of the sentence."""
    (start, end), (last, closed) = span, lists[span[1]]
    before, after = sentence[max(0, start - _SCOPE) : start], sentence[end : end + _SCOPE]
    return _status_in(
        before, sentence[start:end], after, sentence[last : last + 2 * _SCOPE], (last == end, closed), device
    )


@lru_cache(maxsize=16384)  # a text that loops repeats its mentions with all that is around them
def _status_in(before: str, mention: str, after: str, rest: str, ending: tuple[bool, bool], device: bool) -> int:
    """See `_status`. rest: what follows the list of mentions. ending: whether the mention is its own list, and `Lists`' end."""
    value, headed = _value(after, rest, *ending)
    before = cues.HEADED_DENIAL.sub(r"\1", before) if ":" in before else before
    if headed:
        before = re.split(r"[,;]", before)[-1]
    if sides := cues.FIRST_OF_TWO_SIDES.match(before):
        before = sides.group("first")
    before = _tail(before, cues.ENDS)
    if headed and cues.UNCERTAIN_VALUE.match(value):
        return -1
    if denial := cues.DENIED_VALUE.match(value):
        return int(bool(cues.ONE_SIDE_ONLY.match(value, denial.end())))
    after = cues.VALUE.sub(" ", after)
    stop = cues.ENDS.search(after)
    after = cues.NO_CHANGE.sub(" ", after[: stop.start()] if stop else after)
    if cues.UNCERTAIN_AFTER.search(after) or cues.NOT_EXCLUDED.search(before):
        return -1
    negation = cues.NO_CHANGE.sub(" ", _tail(before, cues.NEGATION_ENDS)) + mention
    if cues.NEGATED_BEFORE.search(negation) or cues.NEGATED_AFTER.search(after):
        return 0
    if device and cues.REMOVED.search(after):
        return 0
    uncertain = cues.UNCERTAIN_BEFORE.search(cues.SURE.sub(" ", before)) or cues.UNCERTAIN_BEFORE.search(mention)
    return -1 if uncertain else 1


Lists = dict[int, tuple[int, bool]]
"""End of a mention -> the end of the list of mentions that goes on from it, and whether that ends with more than a comma."""


def _lists(sentence: str, spans: Iterable[Span]) -> Lists:
    """Where the lists end that the mentions of a sentence are part of, from the last mention to the first."""
    ordered = sorted(spans)
    found: Lists = {}
    if len(ordered) == 1:
        return {ordered[0][1]: (ordered[0][1], False)}
    for end in sorted({stop for _, stop in ordered}, reverse=True):
        found[end] = (end, False)
        following = bisect_left(ordered, (end, 0))
        if following < len(ordered):
            start, stop = ordered[following]
            if between := cues.LISTED.fullmatch(sentence, end, start):
                last, closed = found[stop]
                found[end] = (last, between.group().strip() != "," if last == stop else closed)
    return found


def _value(after: str, rest: str, own: bool, closed: bool) -> tuple[str, bool]:
    """What follows a mention, or the list of mentions that it is part of, and whether that is its value after a colon.

    The text that is returned ends with the scope of a cue.
    """
    headed = cues.VALUE.match(rest[:_SCOPE])
    start = headed.end() if headed else 0
    return (rest[start : start + _SCOPE] if headed or own or closed else after), bool(headed) and own


def _tail(text: str, ends: re.Pattern[str]) -> str:
    """The text after the last match of `ends`."""
    last = 0
    for stop in ends.finditer(text):
        last = stop.end()
    return text[last:]
