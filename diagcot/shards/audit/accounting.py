"""What a shard stage read of each source, what is in the shards, and what was left out, by reason, with examples.

For rows of tables, studies, images, boxes and questions: read = in the shards + left out as the recipe asks + lost. A unit of the
stage counts its part of every source; `diagcot.jobs.state.counts` adds the parts up in `summary.json`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from diagcot.data.errors import DataError
from diagcot.data.reports import controls
from diagcot.data.study import Image, Study
from diagcot.jobs.state import json_text
from diagcot.jobs.state.counts import EXAMPLES, THINGS, Thing, asked, lost, reasons_of

Counts = dict[str, Any]

_DETAIL = re.compile(r" \(.*| at line \d.*|; .*", re.DOTALL)
_VALUE = re.compile(r"'[^']*'|\"[^\"]*\"|(?<!\S)\S*\d\S*")
REASON = 90
"""Characters of a reason; what follows is in the stage's events."""


def reason_of(message: str) -> str:
    """The reason in a message without its values, so that equal faults are counted together and no content is shown."""
    return _VALUE.sub("…", _DETAIL.sub("", message)).strip()[:REASON]


class Account:
    """The counts of one source in one unit.

    An example is the key of a study, with the id of an image, or file and line; it never holds a value of a row.
    """

    def __init__(self) -> None:
        self.counts: Counts = {
            "read": {},
            "in_shards": {},
            "asked": {},
            "lost": {},
            "flagged": {},
            "moved": {},
            "examples": {},
        }
        self._asked: set[str] = set()  # keys of studies and images that are left out as the recipe asks

    def read(self, thing: Thing, count: int = 1) -> None:
        """Count what the reader of the source gave."""
        _count(self.counts["read"], thing, count)

    def read_study(self, study: Study) -> None:
        """Count a study with its images, boxes and questions."""
        self.read("studies")
        self.read("questions", len(study.questions))
        self.read("images", len(study.images))
        self.read("boxes", _boxes(study.images))

    def put(self, study: Study) -> None:
        """Count a study with the images and boxes that are in the shard. Phantoms drawn in place of images do not count.

        `settle_questions` counts its questions, when it is known which studies the shard has.
        """
        images = [image for image in study.images if not _drawn(study, image)]
        if controls.found_in(_texts(study)):
            self.flag(CONTROL_TOKEN, study.key)
        _count(self.counts["in_shards"], "studies", 1)
        _count(self.counts["in_shards"], "images", len(images))
        _count(self.counts["in_shards"], "boxes", _boxes(images))

    def used_rows(self, count: int) -> None:
        """Count rows of tables that were used."""
        _count(self.counts["in_shards"], "rows", count)

    def leave_out(self, thing: Thing, reason: str, where: str, count: int = 1, *, asked: bool = False) -> None:
        """Count something that is not in the shard. asked: the recipe asks for it, so it is no loss."""
        if count:
            reasons = self.counts["asked" if asked else "lost"].setdefault(thing, {})
            _count(reasons, reason, count)
            if not asked:
                self._example(reason, where)

    def leave_out_image(self, study: Study, image: Image, reason: str, *, asked: bool = False) -> None:
        """Count an image, and its boxes, that are not in the shard."""
        where = f"{study.key}/{image.id}"
        if asked:
            self._asked.add(where)
        self.leave_out("images", reason, where, asked=asked)
        self.leave_out("boxes", reason, where, len(image.boxes), asked=asked)

    def leave_out_study(self, study: Study, reason: str, *, asked: bool = False) -> None:
        """Count a study with all its images, boxes and questions."""
        self.leave_out_emptied(study, reason, asked=asked)
        for image in study.images:
            self.leave_out_image(study, image, reason, asked=asked)

    def leave_out_emptied(self, study: Study, reason: str, *, asked: bool = False) -> None:
        """Count a study, with its questions, whose images were counted before."""
        if asked:
            self._asked.add(study.key)
        self.leave_out("studies", reason, study.key, asked=asked)
        self.leave_out("questions", reason, study.key, len(study.questions), asked=asked)

    def settle_questions(self, study: str, kept: int, unasked: Iterable[tuple[str, str]]) -> None:
        """Count the questions of a study in the shard. unasked: (why a question is left out, the key of what it lacks)."""
        _count(self.counts["in_shards"], "questions", kept)
        for why, lacking in unasked:
            self.leave_out("questions", why, study, asked=lacking in self._asked)

    def move(self, split: str, to: str, count: int) -> None:
        """Count images whose split another source of the stage decides."""
        _count(self.counts["moved"], f"{split or 'none'} to {to}", count)

    def flag(self, what: str, where: str) -> None:
        """Count an image, or a text, that is in the shard and looks wrong."""
        _count(self.counts["flagged"], what, 1)
        self._example(what, where)

    def _example(self, reason: str, where: str) -> None:
        known = self.counts["examples"].setdefault(reason, [])
        if len(known) < EXAMPLES and where not in known:
            known.append(where)

    def check(self, source: str) -> None:
        """Raises DataError if what was read is not what is in the shard and what was left out."""
        for thing in THINGS:
            found = self.counts["in_shards"].get(thing, 0) + asked(self.counts, thing) + lost(self.counts, thing)
            if found != self.counts["read"].get(thing, 0):
                raise DataError(
                    f"{source}: {self.counts['read'].get(thing, 0)} {thing} were read and {found} are accounted for; this is"
                    " a fault of the suite: report it with the stage's log"
                )


_LEVELS = {"read": 1, "in_shards": 1, "asked": 2, "lost": 2, "flagged": 1, "moved": 1}
"""Parts of an account -> the levels of names above its numbers."""


def accounts(text: str) -> dict[str, Counts]:
    """Source -> its counts, from the attribute of a shard. Raises ValueError for one of another form, and RecursionError."""
    found = json_text.parse_json(text)
    if not (isinstance(found, dict) and all(map(_is_account, found.values()))):
        raise ValueError("these are no accounts")
    return found


def _is_account(counts: Any) -> bool:
    if not (isinstance(counts, dict) and "in_shards" in counts and isinstance(counts.get("examples", {}), dict)):
        return False
    numbers = all(_are_numbers(counts.get(part, {}), levels) for part, levels in _LEVELS.items())
    return numbers and all(map(_are_texts, counts.get("examples", {}).values()))


def _are_numbers(value: Any, levels: int) -> bool:
    if levels == 0:
        return type(value) is int and value >= 0
    return isinstance(value, dict) and all(_are_numbers(part, levels - 1) for part in value.values())


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def sources(text: str) -> list[dict[str, Any]]:
    """What a shard was made of, from its attribute. Raises ValueError for one of another form, and RecursionError."""
    found = json_text.parse_json(text)
    if not (isinstance(found, list) and all(map(_is_source, found))):
        raise ValueError("these are no sources")
    return found


def _is_source(source: Any) -> bool:
    if not (isinstance(source, dict) and isinstance(source.get("dataset"), str)):
        return False
    entry = source.get("entry") or {}
    is_entry = isinstance(entry, dict) and isinstance(entry.get("language") or "", str)
    return is_entry and _are_texts(source.get("transforms") or [])


CONTROL_TOKEN = "a text has a control token of a model; it is read as text"


def _texts(study: Study) -> Iterator[str]:
    """What a shard keeps of a study that may become a prompt or an answer."""
    yield from (study.findings, study.impression, study.indication, study.comparison, *study.tags)
    yield from (text for image in study.images for box in image.boxes for text in (box.label, box.phrase))
    for question in study.questions:
        yield from (question.text, question.reason, *question.answers, *question.options)


def _drawn(study: Study, image: Image) -> bool:
    """Whether the image was drawn by this stage; those of a tree of phantoms were read."""
    return image.phantom and image.id.startswith(f"{study.id}-phantom-")


def _boxes(images: Any) -> int:
    return sum(len(image.boxes) for image in images)


def _count(place: dict[str, int], name: str, count: int) -> None:
    if count:
        place[name] = place.get(name, 0) + count


def excess(counts: Mapping[str, Any], limit: float, units: tuple[int, int]) -> str:
    """What was lost beyond `limit` (0 to 1), in words; empty if nothing was.

    units: number of units whose counts these are, and of all units. As long as other units are to come, these are taken
    to lose nothing, so a stage is stopped only if it cannot keep the limit any more. Rows are counted by one unit.
    """
    counted, every = units
    found = []
    for thing in THINGS:
        gone = lost(counts, thing)
        candidates = gone + counts.get("in_shards", {}).get(thing, 0)
        share = gone / candidates if candidates else 0.0
        if share * (1.0 if thing == "rows" else counted / every) > limit:
            reasons = "; ".join(reasons_of(counts, counts["lost"][thing]))
            found.append(f"{gone:,} of {candidates:,} {thing} ({share:.1%}): {reasons}")
    return ". ".join(found)
