"""The result of one check."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["good", "note", "bad"]


@dataclass(frozen=True)
class Finding:
    """What was checked, the result, and what to do about it."""

    level: Level
    subject: str
    text: str
    remedy: str = ""


def good(subject: str, text: str) -> Finding:
    """The check passed."""
    return Finding("good", subject, text)


def note(subject: str, text: str, remedy: str = "") -> Finding:
    """It works, but a person may want to know about it or change it."""
    return Finding("note", subject, text, remedy)


def bad(subject: str, text: str, remedy: str = "") -> Finding:
    """Something that the chain needs would fail. Without a remedy, the text itself says what to do."""
    return Finding("bad", subject, text, remedy)
