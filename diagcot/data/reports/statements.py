"""From the text of a report or a line of thought to statements: finding, status, side, zone, degree, kind of device.

Findings and their status are those of the labeler; this module adds where and how much. "Small left and large right pleural
effusions" are two statements, "left and right basal atelectasis" is one of the left and one of the right base.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from diagcot.data.reports import statement_phrases as phrases
from diagcot.data.reports.labeler import mentions_in
from diagcot.data.reports.statement_phrases import CLEAR

NO_FINDING = "No Finding"
_LISTED = 8  # most places of one mention in a list
_SENTENCE = re.compile(r"((?<!\d)\.(?!\d)|\.(?=\s)|[!?\n]+)")


@dataclass(frozen=True)
class Statement:
    """What a sentence says of one finding in one place."""

    finding: str  # a CheXpert label; No Finding and Clear Lungs where a sentence says so
    status: int  # 1 present, 0 denied, -1 in doubt
    side: str = ""  # left, right, bilateral, or "" where none is named
    zone: str = ""  # upper, mid, lower, or ""
    degree: str = ""  # small, large, mild, moderate, severe, a range such as "mild to moderate", or ""
    device: str = ""  # kind of a support device, or ""
    revision: int = 0  # how often the text has corrected itself before
    added: bool = False  # the sentence says that it stands beside earlier ones
    withdraws: bool = (
        False  # says only that what was said of the finding before is wrong; of none: that all doubts are settled
    )

    @property
    def sides(self) -> frozenset[str]:
        """The sides: left, right, both, or none."""
        return frozenset(("left", "right") if self.side == "bilateral" else (self.side,) if self.side else ())

    @property
    def name(self) -> str:
        """The finding, or the kind of a device, in lower case."""
        return self.device or self.finding.lower()

    def __str__(self) -> str:
        if self.withdraws:
            return f"{self.name} taken back"
        place = f"{self.zone} zone" if self.zone else ""
        words = " ".join(word for word in (self.degree, self.side, place, self.name) if word)
        return {1: words, 0: f"no {words}", -1: f"possible {words}"}[self.status]


def statements(text: str) -> list[Statement]:
    """The statements of a text in its order. A question states nothing."""
    found: list[Statement] = []
    revision = 0
    parts = _SENTENCE.split(text.lower())
    for part, end in zip(parts[::2], [*parts[1::2], ""], strict=True):
        sentence = " ".join(part.split())
        if not sentence:
            continue
        wrong = phrases.WRONG.search(sentence)
        if wrong or (phrases.REVISION.search(sentence) and not phrases.HOLDS.search(sentence)):
            revision += 1
        if wrong:
            labels = (names for word, names in phrases.REGIONS.items() if word in sentence)
            found += (Statement(label, 0, revision=revision, withdraws=True) for names in labels for label in names)
        elif "?" not in end:
            if phrases.SETTLED.search(sentence):
                found.append(Statement("", 0, revision=revision, withdraws=True))
            found += (replace(one, revision=revision) if revision else one for one in _in_sentence(sentence))
    return found


class _Sentence:
    """A sentence in lower case, with the words of place and degree in it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.modifiers = list(phrases.MODIFIER.finditer(text))
        self._starts = [match.start() for match in self.modifiers]

    def within(self, start: int, end: int) -> list[re.Match[str]]:
        """The modifiers that begin in a part of the sentence."""
        return self.modifiers[bisect_left(self._starts, start) : bisect_left(self._starts, end)]

    def place(self, start: int, end: int) -> "_Place":
        """The side, zone and degree that a part of the sentence names; two sides are both."""
        found = [match.lastgroup or "" for match in self.within(start, end)]
        sides = dict.fromkeys(name for name in found if name in phrases.SIDES)
        zones = [name for name in found if name in phrases.ZONES]
        degrees = dict.fromkeys(name for name in found if name in phrases.DEGREES)
        return _Place(
            "bilateral" if len(sides) > 1 else "".join(sides), zones[0] if zones else "", " to ".join(degrees)
        )

    def bare(self, start: int, end: int) -> bool:
        """Whether a part of the sentence holds a place or a degree and nothing else."""
        rest, at = "", start
        for match in self.within(start, end):
            rest += self.text[at : match.start()] + " "
            at = match.end()
        return at > start and not phrases.FILLER.sub("", rest + self.text[at:end])

    def segments(self, start: int, end: int) -> list[tuple[int, int]]:
        """The parts between the separators of a part of the sentence."""
        cuts = [match.span() for match in phrases.SEPARATOR.finditer(self.text, start, end)]
        return list(zip([start, *(cut[1] for cut in cuts)], [*(cut[0] for cut in cuts), end], strict=True))


@dataclass
class _Mention:
    """Mentions whose words overlap."""

    labels: dict[str, int]  # label -> status
    start: int
    end: int


@dataclass(frozen=True)
class _Place:
    side: str = ""
    zone: str = ""
    degree: str = ""


@lru_cache(maxsize=65536)  # reports repeat their sentences
def _in_sentence(text: str) -> tuple[Statement, ...]:
    sentence, mentions = _Sentence(text), _mentions(text)
    added = phrases.ADDED.search(text) is not None
    found = [
        Statement(finding, 1, added=added)
        for finding, words in ((CLEAR, phrases.LUNGS_CLEAR), (NO_FINDING, phrases.NOTHING))
        if words.search(text)
    ]
    first_thought = phrases.FIRST_THOUGHT.search(text)
    previous, seen = 0, set[tuple[object, ...]]()
    for at, mention in enumerate(mentions):
        listed = at + 1 < len(mentions)
        following = mentions[at + 1].start if listed else len(text)
        head, words = text[previous : mention.start], text[mention.start : mention.end]
        thought = first_thought is not None and first_thought.end() <= mention.start
        same = (head, words, text[mention.end : following], tuple(mention.labels.items()), bool(at), listed, thought)
        if same not in seen:  # a sentence that loops says the same again
            seen.add(same)
            before = _before(sentence, previous, mention, bool(at))
            after = _after(sentence, mention, following, listed)
            sought = phrases.SOUGHT.search(head) and not phrases.BREAK.search(head)
            for label, status in mention.labels.items():
                if sought or (not status and phrases.PARTIAL.search(head)):
                    continue
                stated = -1 if status == 1 and thought else status
                found += _placed(Statement(label, stated, device=_device(label, words), added=added), before, after)
        previous = mention.end
    return tuple(dict.fromkeys(found))


def _mentions(sentence: str) -> list[_Mention]:
    """The findings of a sentence in its order; those whose words overlap are one mention."""
    spans = [(m.start, m.end, m.label, m.status) for m in mentions_in(sentence)]
    named = {label for _, _, label, _ in spans}
    for label, words in phrases.EXTRA.items():
        if label not in named:
            spans += ((*m.span(), label, 1) for m in words.finditer(sentence))
    spans += ((*m.span(), label, 0) for label, words in phrases.ABSENT.items() for m in words.finditer(sentence))
    groups: list[_Mention] = []
    for start, end, label, status in sorted(spans):
        if groups and start < groups[-1].end:
            last = groups[-1]
            last.end = max(last.end, end)
            last.labels[label] = max(last.labels.get(label, 0), status, key=abs)
        else:
            groups.append(_Mention({label: status}, start, end))
    return groups


def _before(sentence: _Sentence, previous: int, mention: _Mention, listed: bool) -> list[_Place]:
    """The places before a mention, and those within it: the words after the last separator, and the list that they end.

    listed: another mention ends at `previous`.
    """
    start = previous
    for stop in phrases.BREAK.finditer(sentence.text, previous, mention.start):
        start = stop.end()
    follows = listed and start == previous  # the first segment belongs to the mention before
    segments = sentence.segments(start, mention.start)
    last = segments.pop()
    if follows and not segments:
        return [sentence.place(mention.start, mention.end)]
    opened = follows and not sentence.text[slice(*segments[0])].isspace()
    places = [sentence.place(last[0], mention.end)]
    for segment in reversed(segments[1:] if follows else segments):
        place = sentence.place(*segment)
        # In "in the right upper zone, left mid zone and left nodule" the left mid zone is of the mention before.
        if not sentence.bare(*segment) or (opened and place.zone) or len(places) == _LISTED:
            break
        places.insert(0, place)
    return places


def _after(sentence: _Sentence, mention: _Mention, following: int, listed: bool) -> list[_Place]:
    """The places after a mention, up to those of the next one. listed: there is a next one, which begins at `following`."""
    stop = phrases.BREAK.search(sentence.text, mention.end, following)
    segments = sentence.segments(mention.end, stop.start() if stop else following)
    next_one = listed and not stop
    # The words before the next mention belong to it, and those before "lung is clear" or "than" to that clause.
    if len(segments) > 1 and (next_one or (stop and phrases.CLAUSE.match(stop.group()))):
        segments.pop()
    first, *others = segments
    opened = bool(sentence.text[slice(*first)].strip())
    places = [sentence.place(*first)]
    for segment in others[: _LISTED - 1]:
        place = sentence.place(*segment)
        if not sentence.bare(*segment) or (next_one and not (opened and place.zone)):
            break
        places.append(place)
    return places


def _placed(stated: Statement, before: Iterable[_Place], after: Iterable[_Place]) -> Iterator[Statement]:
    """The statement at each of its places."""
    ours, theirs = _filled(before), _filled(after)
    if any(p.side for p in ours) and any(p.side for p in theirs):
        places = [*ours, *theirs]
    else:
        places = [
            _Place(p.side or q.side, p.zone or q.zone, q.degree or p.degree)
            for p in ours or [_Place()]
            for q in theirs or [_Place()]
        ]
    for place in places:
        degree = place.degree
        if stated.finding not in phrases.SIZED and set(degree.split(" to ")) & {"small", "large"}:
            degree = ""
        yield replace(
            stated,
            side=place.side if stated.finding in phrases.PLACED else "",
            zone=place.zone if stated.finding in phrases.ZONED else "",
            degree=degree,
        )


def _filled(places: Iterable[_Place]) -> list[_Place]:
    """The places of a list, each with what its neighbours say for it: "left and right basal" is basal on both sides."""
    given = list(places)
    general = next((p.degree for p in given if p.degree and not p.side and not p.zone), "")
    found = [p for p in given if p.side or p.zone]
    for at, place in enumerate(found):
        later, earlier = found[at + 1 :], found[:at]
        side = place.side or next((p.side for p in (*reversed(earlier), *later) if p.side), "")
        zone = place.zone or next((p.zone for p in later if p.zone), "")
        degree = place.degree or next((p.degree for p in reversed(earlier) if p.degree), general)
        found[at] = _Place(side, zone, degree)
    return found or ([_Place(degree=general)] if general else [])


def _device(label: str, words: str) -> str:
    if label != "Support Devices":
        return ""
    return next((kind for kind, named in phrases.DEVICES.items() if named.search(words)), "device")
