"""What a text states in the end, and how two texts differ in it: in findings, sides, zones, degrees and devices."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from diagcot.data.reports.statement_phrases import CLEAR, DEGREES, DEVICES, LUNG
from diagcot.data.reports.statements import NO_FINDING, Statement, statements

ASPECTS = ("label", "side", "zone", "severity", "device")
"""What two texts can differ in."""

_CLEAR, _NOTHING, _DEVICE = CLEAR.lower(), NO_FINDING.lower(), "device"
_DEVICES = frozenset({*DEVICES, _DEVICE})
_LUNG = frozenset(label.lower() for label in LUNG)
_GENERAL = {
    "lung opacity": frozenset({"edema", "consolidation", "pneumonia", "atelectasis", "lung lesion"}),
    "consolidation": frozenset({"pneumonia"}),
    "enlarged cardiomediastinum": frozenset({"cardiomegaly"}),
}
"""Finding -> findings that are cases of it, as in CheXpert's hierarchy of labels (Irvin 2019, figure 1)."""


class Difference(NamedTuple):
    """What a text says that the other contradicts, or does not say although the other does."""

    aspect: str  # one of ASPECTS
    words: str


@dataclass(frozen=True)
class Facts:
    """The statements of a text. A correction takes back what it replaces, and a sure statement settles a doubt."""

    standing: tuple[Statement, ...]  # those that the text has not taken back

    @staticmethod
    def of(text: str) -> "Facts":
        """The facts of a report or a line of thought."""
        return _read(text)

    @staticmethod
    def given(found: Iterable[Statement]) -> "Facts":
        """The facts that statements make, the first one first."""
        return Facts(tuple(_standing(found)))

    @staticmethod
    def of_labels(labels: Mapping[str, int]) -> "Facts":
        """The facts of CheXpert labels: 1 present, 0 absent, -1 in doubt."""
        rows = (
            Statement(name, value, device=_DEVICE if name == "Support Devices" else "")
            for name, value in labels.items()
            if name != NO_FINDING or value == 1
        )
        return Facts.given(rows)

    def claims(self, name: str) -> list[Statement]:
        """The standing statements that a finding is present or in doubt."""
        return [one for one in self.standing if one.status and same(one.name, name)]

    def present(self) -> list[str]:
        """The findings that are stated for sure, devices included, each once."""
        names = (one.name for one in self.standing if one.status == 1)
        return [name for name in dict.fromkeys(names) if name not in (_CLEAR, _NOTHING)]

    def abnormal(self) -> bool:
        """Whether anything but a device is stated as present."""
        return any(name not in _DEVICES for name in self.present())

    def denies(self, name: str) -> bool:
        """Whether the text denies a finding on all sides."""
        return any(one.status == 0 and one.name == name and not one.side for one in self.standing)

    def states(self, name: str) -> bool:
        """Whether a statement of this name stands as present."""
        return any(one.status == 1 and one.name == name for one in self.standing)


@lru_cache(maxsize=16384)  # a reference is compared with many texts
def _read(text: str) -> Facts:
    return Facts.given(statements(text))


def sides(found: Iterable[Statement]) -> frozenset[str]:
    """The sides that statements name."""
    return frozenset(side for one in found for side in one.sides)


def zones(found: Iterable[Statement]) -> frozenset[str]:
    """The zones that statements name."""
    return frozenset(one.zone for one in found if one.zone)


def ranks(found: Iterable[Statement]) -> frozenset[int]:
    """The degrees that statements name, as 1 (small, mild), 2 (moderate) and 3 (large, severe)."""
    return frozenset(DEGREES[word] for one in found if one.degree for word in one.degree.split(" to "))


def contradictions(ours: Facts, theirs: Facts, *, general: bool = False) -> Iterator[Difference]:
    """What our text states at its end that the other does not support. What the other leaves open contradicts nothing.

    general: a finding of which the other states a case is supported ("opacity", where the other says atelectasis).
    """
    abnormal = [name for name in theirs.present() if name not in _DEVICES]
    for one in ours.standing:
        if one.name in (_CLEAR, _NOTHING):
            against = [name for name in abnormal if one.name == _NOTHING or name in _LUNG]
            if against and not theirs.states(one.name):
                yield Difference("label", f"{one}, against {', '.join(against)}")
        elif one.status == 0:
            yield from _denied(one, theirs)
        else:
            yield from _claimed(one, theirs, general)


def omissions(ours: Facts, theirs: Facts, *, general: bool = False) -> Iterator[Difference]:
    """Findings, and their sides, that the other text states and ours does not state as present or possible."""
    for name in theirs.present():
        there = [one for one in theirs.claims(name) if one.status == 1]
        cases = {name} | (_GENERAL.get(name, frozenset()) if general else frozenset())
        here = [one for case in cases for one in ours.claims(case)]
        if not here:
            yield Difference("device" if name in _DEVICES else "label", name)
        elif missing := sides(there) - sides(here):
            yield Difference("side", f"{' and '.join(sorted(missing))} {name}")


def _denied(one: Statement, theirs: Facts) -> Iterator[Difference]:
    if any(other.status == 0 and other.name == one.name for other in theirs.standing):
        return
    there = [
        other
        for other in theirs.claims(one.name)
        if other.status == 1
        and (not one.side or one.sides & other.sides)
        and (not one.zone or one.zone == other.zone)
        and (not one.degree or ranks([one]) & ranks([other]))
    ]
    if there:
        yield Difference("side" if one.side else "label", f"{one}, against {there[0]}")


def _claimed(one: Statement, theirs: Facts, general: bool) -> Iterator[Difference]:
    there = theirs.claims(one.name)
    if not there and general:
        there = [other for case in _GENERAL.get(one.name, ()) for other in theirs.claims(case)]
        there = [replace(other, degree="") for other in there]
    if not there:
        yield Difference("device" if one.device else "label", str(one))
        return
    if (named := sides(there)) and one.sides - named:
        yield Difference("side", f"{one}, against {there[0]}")
        return
    place = [other for other in there if not one.sides or not other.sides or one.sides & other.sides]
    if one.zone and zones(place) and one.zone not in zones(place):
        yield Difference("zone", f"{one}, against {place[0]}")
    if ranks([one]) and ranks(place) and not ranks([one]) & ranks(place):
        yield Difference("severity", f"{one}, against {place[0]}")


def same(name: str, other: str) -> bool:
    """Whether two names are of one finding; a device whose kind is not named may be any device."""
    return name == other or (_DEVICE in (name, other) and {name, other} <= _DEVICES)


def _standing(said: Iterable[Statement]) -> Iterator[Statement]:
    """The statements that no later one takes back."""
    stands: dict[str, dict[Statement, None]] = {}  # name -> its standing statements, in order
    for one in said:
        _settle(stands, one)
        if one.withdraws:
            continue
        stands.setdefault(one.name, {})[one] = None
    for found in stands.values():
        yield from found


def _settle(stands: dict[str, dict[Statement, None]], new: Statement) -> None:
    """Remove from `stands` what a new statement takes back."""
    for name, found in stands.items():
        if not new.finding:
            stands[name] = {old: None for old in found if old.status != -1}
            continue
        if any(old.finding == new.finding for old in found) and (same(new.name, name) or new.withdraws):
            stands[name] = {left: None for old in found if (left := _left(old, new))}
        elif _excludes(new, name):
            stands[name] = {old: None for old in found if old.revision == new.revision and old.status != -1}


def _excludes(new: Statement, name: str) -> bool:
    """Whether a statement, made in a correction, takes back earlier ones of another name."""
    if new.withdraws:
        return name == _NOTHING
    if name in (_CLEAR, _NOTHING):
        return new.status == 1 and new.name != name and (new.name in _LUNG if name == _CLEAR else not new.device)
    return new.name == _CLEAR and name in _LUNG


def _left(old: Statement, new: Statement) -> Statement | None:
    """What is left of an earlier statement of the same finding."""
    apart = bool(old.side and new.side and not old.sides & new.sides)
    if new.withdraws:
        return None
    if old.status == -1 and new.status != -1 and not apart:
        return None
    if new.revision == old.revision:
        return old
    if new.status == 0 or old.status == 0:
        remaining = old.sides - new.sides if new.side and old.sides else frozenset[str]()
        return replace(old, side=min(remaining)) if remaining else None
    return old if new.added or _restated(old, new) else None


def _restated(old: Statement, new: Statement) -> bool:
    """Whether a statement says nothing of its finding that an earlier one does not say."""
    return all(
        mine in ("", theirs) for mine, theirs in ((new.side, old.side), (new.zone, old.zone), (new.degree, old.degree))
    )
