"""Options of closed questions, `A) text`, and the marks that judge a step: ✅ or ❌ (CX-Mind, arXiv:2508.03733)."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

RIGHT, WRONG = "✅", "❌"
LETTERS = "ABCDEFG"

_MARKS = re.compile(f"[{RIGHT}{WRONG}]")
_LISTED = re.compile(rf"^([{LETTERS}])\)", re.MULTILINE)
_EMPHASIS = re.compile(r"\*\*|__|`")
_LETTERED = re.compile(
    rf"\b([{LETTERS}])\s*[).:]"  # B) B. B:
    rf"|(?<!\w)([{LETTERS.lower()}])\)"  # b)
    rf"|\b[Oo]ption\s+([{LETTERS}{LETTERS.lower()}])\b"
    rf"|\b[Aa]nswer(?:\s+is|:)\s+([{LETTERS.lower()}])\.?$"
    rf"|^\(?([{LETTERS.lower()}])\.?$"  # b, alone
)
_STANDING = re.compile(rf"(?<![-\w])([{LETTERS}])(?![-\w])")
_ARTICLE = re.compile(r"(?:^|(?<=[.:;!?]\s))A(?=\s+(?!is\b|seems\b|fits\b|because\b|or\b|and\b)(?:[A-Z]-)?[a-z])")
_DENIAL = re.compile(r"\b(?:no|not|without|free of|absence of|negative for)\b")
_DENIAL_ENDS = re.compile(r"[.,;:]|\bbut\b")


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

    A letter before a bracket, point or colon, after "option", or alone comes first, as in `B) ❌`, then a capital letter that
    stands alone and is no article, then the words of one of `options`, unless the text denies them. A letter beyond
    `options`, if they are given, names nothing.
    """
    words = " ".join(_EMPHASIS.sub("", without_marks(text)).split())
    letters = {"".join(groups).upper() for groups in _LETTERED.findall(words)}
    letters = letters or set(_STANDING.findall(_ARTICLE.sub("", words)))
    if letters:
        letter = letters.pop()
        known = not options or LETTERS.index(letter) < len(options)
        return letter if not letters and known else ""
    lower = words.lower().strip(" .")
    places = [place for place, option in enumerate(options) if option.lower() == lower] or [
        place for place, option in enumerate(options) if _stated(option.lower(), lower)
    ]
    return LETTERS[places[0]] if len(places) == 1 else ""


def judged(step: str) -> str:
    """Letter of the option that a step names and marks; empty without exactly one option and one kind of mark."""
    return named(step) if mark(step) is not None else ""


def chosen(answer: str, options: Sequence[str] = ()) -> str:
    """Letter of the option that a final answer chooses: the one it names, unless the answer marks it as wrong."""
    return "" if WRONG in answer else named(answer, options)


def _stated(option: str, text: str) -> bool:
    """Whether a text has the words of an option somewhere without a denial before them; both in lower case."""
    places = [match.start() for match in re.finditer(rf"\b{re.escape(option)}\b", text)]
    denials = [match.span() for match in _DENIAL.finditer(text)] if places else []
    ends = [match.start() for match in _DENIAL_ENDS.finditer(text)] if denials else []
    for place in places:
        before = bisect_right(denials, place, key=lambda span: span[1])  # denials that are whole before the option
        end = bisect_left(ends, place)
        if not before or (end and ends[end - 1] >= denials[before - 1][1]):
            return True
    return False
