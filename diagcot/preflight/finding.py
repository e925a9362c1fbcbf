"""One line of the doctor's report."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["good", "note", "bad"]


@dataclass(frozen=True)
class Finding:
    """What was looked at, how it is, and what to do."""

    level: Level
    subject: str
    text: str
    remedy: str = ""


def good(subject: str, text: str) -> Finding:
    return Finding("good", subject, text)


def note(subject: str, text: str, remedy: str = "") -> Finding:
    """Works, but a person may want to know or mend it."""
    return Finding("note", subject, text, remedy)


def bad(subject: str, text: str, remedy: str = "") -> Finding:
    """Something that the chain needs would fail; without a remedy, the text itself says what to do."""
    return Finding("bad", subject, text, remedy)
