"""Options of closed questions, `A) text`, and the marks that judge a step: ✅ or ❌ (CX-Mind, arXiv:2508.03733)."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

RIGHT, WRONG = "✅", "❌"
LETTERS = "ABCDEFG"

_MARKS = re.compile(f"[{RIGHT}{WRONG}]")
_LISTED = re.compile(rf"^([{LETTERS}])\)", re.MULTILINE)
_EMPHASIS = re.compile(r"[*`]|__")
_FIELD = re.compile(r"""["'](?:final_)?(?:answer|option|choice)["']\s*:\s*(?:"([^"]*)"|'([^']*)')""", re.IGNORECASE)
_CONCLUSION = re.compile(
    r"\b(?:answer|choice|option)(?: (?:is|would be|should be|must be)\b:?| ?[:=]) ?(?=\S)", re.IGNORECASE
)
_LETTERED = re.compile(
    rf"\b([{LETTERS}])\s*[).:]"  # B) B. B:
    rf"|(?<!\w)([{LETTERS.lower()}])\)"  # b)
    rf"|\b[Oo]ption\s+([{LETTERS}{LETTERS.lower()}])\b"
    rf"|^\(?([{LETTERS.lower()}])\.?$"  # b, alone
)
_STANDING = re.compile(rf"(?<![-\w/])([{LETTERS}])(?![-\w/])")
_ARTICLE = re.compile(r"(?:^|(?<=[.:;!?]\s))A(?=\s+(?!is\b|seems\b|fits\b|because\b|or\b|and\b)(?:[A-Z]-)?[a-z])")
_DENIED_LETTER = re.compile(
    rf"\b(?:not|Not|neither|Neither|nor)\s+(?:[Oo]ption\s+)?([{LETTERS}])\b"
    rf"|\b([{LETTERS}])\)?\s+is\s+(?:wrong|incorrect|false|not)\b"
)
_DENIAL = re.compile(
    r"\b(?:no|not|without|free of|absence of|negative for|neither|nor|rather than|instead of|excludes?|rules out)\b"
)
_DENIAL_ENDS = re.compile(r"[.,;:]|\bbut\b")
_DENIED_AFTER = re.compile(
    r" (?:(?:is|are|was|can be|could be|has been|seems) )?(?:absent|excluded|ruled out|unlikely|wrong|not)\b"
)
_BLANKS = re.compile(r"[\s-]+")
_VERDICTS = {
    **dict.fromkeys(("yes", "sí", "si", "sì", "ja", "oui", "sim", "是的", "是", "有"), "yes"),
    **dict.fromkeys(("no", "nein", "non", "não", "不是", "没有", "否", "无"), "no"),
}
"""Yes and No in English, Spanish, Italian, German, French, Portuguese and Chinese."""
_VERDICT = re.compile(
    r"^(?:(?:yes|no|sí|si|sì|ja|nein|oui|non|sim|não)\b|是的|是|有|不是|没有|否|无)"  # first, whatever follows
    r"|(?<!\bnot )\b(?:yes|no)(?= ?(?:[.,;:!?]|$))"  # or at the end of a clause, unlike "no effusion"
)


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

    What follows the last "the answer is" or "Answer:" counts, else the whole text. A letter before a bracket, point or
    colon, after "option", or alone comes first, as in `B) ❌`, then a capital letter that stands alone and is no article,
    then the words of one of `options`, unless the text denies them: of Yes and No the first word or the end of a clause,
    in several languages; of options that list findings all those that the text states. A letter beyond `options`, if they
    are given, or with the words of another option (`A) No` of A) Yes, B) No) names nothing.
    """
    words = " ".join(_EMPHASIS.sub("", without_marks(text)).split())
    conclusion = 0
    for match in _CONCLUSION.finditer(words):
        conclusion = match.end()
    return (_named(words[conclusion:], options) if conclusion else "") or _named(words, options)


def judged(step: str) -> str:
    """Letter of the option that a step names and marks; empty without exactly one option and one kind of mark."""
    return named(step) if mark(step) is not None else ""


def chosen(answer: str, options: Sequence[str] = ()) -> str:
    """Letter of the option that a final answer chooses: the one it names, unless the answer marks it as wrong.

    In JSON the field answer, option or choice is the answer. Of several marked options the one that is right is chosen.
    """
    if field := _FIELD.search(answer):
        answer = field.group(1) or field.group(2) or ""
    if RIGHT in answer and WRONG in answer:
        steps = re.split(f"(?<=[{RIGHT}{WRONG}])", answer)
        right = [step for step in steps if step.endswith(RIGHT)]
        return named(right[0], options) if len(right) == 1 else ""
    return "" if WRONG in answer else named(answer, options)


def _named(words: str, options: Sequence[str]) -> str:
    """As `named`, of a text without emphasis and marks, its words joined by single blanks."""
    lettered = {"".join(match.groups("")).upper(): match.end() for match in _LETTERED.finditer(words)}
    denied = {"".join(match.groups("")) for match in _DENIED_LETTER.finditer(words)}
    letters = lettered.keys() - denied or set(_STANDING.findall(_ARTICLE.sub("", words))) - denied
    if not letters:
        return "" if denied else _worded(words, options)
    letter = letters.pop()
    if letters or (options and LETTERS.index(letter) >= len(options)):
        return ""
    after = _begun(words[lettered[letter] :], options) if letter in lettered else ""
    return letter if after in ("", letter) else ""


def _begun(text: str, options: Sequence[str]) -> str:
    """Letter of the longest option with whose words a text begins; empty if it begins with none."""
    start = _plain(text[: 1 + max(map(len, options), default=0) + len(" )].:")]).lstrip(" )].:")
    begun = [option for option in options if re.match(rf"{re.escape(_plain(option))}(?!\w)", start)]
    return LETTERS[options.index(max(begun, key=len))] if begun else ""


def _worded(words: str, options: Sequence[str]) -> str:
    """Letter of the one option whose words a text states; empty if it states none or several."""
    text, plain = _plain(words).strip(" ."), [_plain(option) for option in options]
    if text in plain:
        return LETTERS[plain.index(text)]
    if sorted(plain) == ["no", "yes"]:
        said = {_VERDICTS[match.group()] for match in _VERDICT.finditer(text)}
        return LETTERS[plain.index(said.pop())] if len(said) == 1 else ""
    if any("," in option for option in plain):  # each is a set of findings
        sets = [frozenset(part.strip() for part in option.split(",")) for option in plain]
        stated = frozenset(part for part in frozenset[str]().union(*sets) if _stated(part, text))
        return LETTERS[sets.index(stated)] if stated in sets else ""
    places = [place for place, option in enumerate(plain) if _stated(option, text)]
    return LETTERS[places[0]] if len(places) == 1 else ""


def _plain(text: str) -> str:
    """A text in lower case, its words joined by single blanks in place of hyphens and white space."""
    return _BLANKS.sub(" ", text).lower()


def _stated(option: str, text: str) -> bool:
    """Whether a text has the words of an option somewhere without a denial before or after; both in lower case."""
    places = [match.span() for match in re.finditer(rf"\b{re.escape(option)}\b", text)]
    denials = [match.span() for match in _DENIAL.finditer(text)] if places else []
    ends = [match.start() for match in _DENIAL_ENDS.finditer(text)] if denials else []
    for place, after in places:
        if _DENIED_AFTER.match(text, after):
            continue
        before = bisect_right(denials, place, key=lambda span: span[1])  # denials that are whole before the option
        end = bisect_left(ends, place)
        if not before or (end and ends[end - 1] >= denials[before - 1][1]):
            return True
    return False
