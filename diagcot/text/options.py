"""Options of closed questions, `A) text`, and the marks that judge a step: ✅ or ❌ (CX-Mind, arXiv:2508.03733)."""

import re
from collections.abc import Sequence

RIGHT, WRONG = "✅", "❌"
LETTERS = "ABCDEFG"

_MARKS = re.compile(f"[{RIGHT}{WRONG}]")
_LISTED = re.compile(rf"^([{LETTERS}])\)", re.MULTILINE)
_LETTERED = re.compile(rf"\b([{LETTERS}])\s*[).:]")
_STANDING = re.compile(rf"\b([{LETTERS}])\b")


def listed(question: str) -> list[str]:
    """Letters of the options that a question lists, each at the start of a line."""
    return _LISTED.findall(question)


def without_marks(text: str) -> str:
    """The text without ✅ and ❌."""
    return _MARKS.sub(" ", text)


def mark(text: str) -> bool | None:
    """The judgement of a step: True for ✅, False for ❌, None if the text has neither or both."""
    marks = set(_MARKS.findall(text))
    return marks == {RIGHT} if len(marks) == 1 else None


def named(text: str, options: Sequence[str] = ()) -> str:
    """Letter of the one option that a text names, whatever its mark; empty if it names none or several.

    A letter before a bracket, point or colon comes first, as in `B) ❌`, then a capital letter that stands alone, then the
    words of one of `options`. A letter beyond `options`, if they are given, names nothing.
    """
    words = " ".join(without_marks(text).split())
    letters = set(_LETTERED.findall(words)) or set(_STANDING.findall(words))
    if letters:
        letter = letters.pop()
        known = not options or LETTERS.index(letter) < len(options)
        return letter if not letters and known else ""
    lower = words.lower().strip(" .")
    places = [place for place, option in enumerate(options) if option.lower() == lower] or [
        place for place, option in enumerate(options) if re.search(rf"\b{re.escape(option.lower())}\b", lower)
    ]
    return LETTERS[places[0]] if len(places) == 1 else ""


def judged(step: str) -> str:
    """Letter of the option that a step names and marks; empty without exactly one option and one kind of mark."""
    return named(step) if mark(step) is not None else ""


def chosen(answer: str, options: Sequence[str] = ()) -> str:
    """Letter of the option that a final answer chooses: the one it names, unless the answer marks it as wrong."""
    return "" if WRONG in answer else named(answer, options)
