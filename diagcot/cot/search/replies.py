"""What models reply: JSON that may need mending, verdicts, and prose. All raise Unreadable with what is wrong."""

import json
import re
from typing import Any

from diagcot.cot.filtration.rules import mention
from diagcot.cot.search.case import Case
from diagcot.tasks.prompts import IMAGE, report_answer

_NAMED = re.compile(r"^(findings|impression)\s*:\s*", re.IGNORECASE)
_TAG = re.compile(r"</?(?:think|answer)>", re.IGNORECASE)
_FENCE = re.compile(r"```\w*\n?")
_WORDS = {"True": "true", "False": "false", "None": "null"}
Step = tuple[str, str]


class Unreadable(ValueError):
    """A reply cannot be used; the message says why, in words that the model is shown."""


def read(text: str, mend: bool) -> dict[str, Any]:
    """The JSON object of a reply: from its first brace to its last, raw line breaks in strings taken as such.

    mend: also without fences, with stray commas, Python's constants, text behind the object, and a cut tail, of which
    whole values are kept and the one that was cut is left out: no value is ever shortened or made up.
    """
    body = text[max(text.find("{"), 0) :]
    try:
        row = json.loads(body[: body.rfind("}") + 1] or body, strict=False)
    except (ValueError, RecursionError) as error:  # not JSON, a number too long, brackets too deep
        if not mend:
            raise Unreadable(f"it is not JSON: {error}") from error
        try:
            row = json.loads(mended(_FENCE.sub("", text)), strict=False)
        except (ValueError, RecursionError):
            raise Unreadable(f"it is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise Unreadable("it is not a JSON object")
    return row


def mended(text: str) -> str:
    """The first object of `text` as JSON, see `read`. What cannot be mended comes back as it is."""
    out: list[str] = []
    stack: list[str] = []  # the closing brackets that are due
    whole: tuple[int, str] = (0, "")  # length of `out` after the last whole value, and what closes it
    key = False  # whether the next string of an object is a key
    at = text.find("{")
    while 0 <= at < len(text):
        sign = text[at]
        token = _token(text, at)
        if token is None:  # the tail is cut within a string or a word
            break
        at += len(token)
        if sign in "{[":
            stack.append("}" if sign == "{" else "]")
            key = sign == "{"
            out.append(sign)
            continue
        if sign in "}]":
            if not stack or stack.pop() != sign:
                return text
            while out and (out[-1] == "," or out[-1].isspace()):
                out.pop()
            out.append(sign)
            if not stack:
                return "".join(out)
        elif sign in ",:" or sign.isspace():
            key = (bool(stack) and stack[-1] == "}") if sign == "," else False if sign == ":" else key
            out.append(token)
            continue
        else:
            out.append(_WORDS.get(token, token))
            if key:
                continue
        whole = (len(out), "".join(reversed(stack)))
    return "".join(out[: whole[0]]) + whole[1]


def _token(text: str, at: int) -> str | None:
    """The sign, white space, string or bare word at `at`; None if the text ends within it."""
    if text[at] in "{}[],:":
        return text[at]
    if text[at].isspace():
        return re.compile(r"\s+").match(text, at).group()  # type: ignore[union-attr]
    found = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s{}\[\],:"]+(?=[\s{}\[\],:"])', re.DOTALL).match(text, at)
    return found.group() if found else None


def line(text: Any, name: str = "a text") -> str:
    """One line of text, words kept apart, without marks that stand for films. Raises Unreadable if there is none."""
    told = " ".join(_plain(text).split()) if isinstance(text, str) else ""
    if not told:
        raise Unreadable(f"{name} is empty or no text")
    return told


def part(row: Any, name: str) -> Any:
    """A member of an object. Raises Unreadable if it has none of that name."""
    if not isinstance(row, dict) or name not in row:
        raise Unreadable(f"{name!r} is missing")
    return row[name]


def thinking(row: dict[str, Any]) -> tuple[tuple[Step, ...], str, str]:
    """Steps (title, content), conclusion and check; a check that was cut off is empty."""
    told = part(row, "thinking")
    if not isinstance(told, list) or not told:
        raise Unreadable("'thinking' is not a list of steps")
    steps = tuple((line(part(step, "title"), "a title"), line(part(step, "content"), "a content")) for step in told)
    check = line(row["check"], "the check") if "check" in row else ""
    return steps, line(part(row, "conclusion"), "the conclusion"), check


def verdict(row: dict[str, Any]) -> tuple[bool, str]:
    said = part(row, "verdict")
    if not isinstance(said, bool):
        raise Unreadable("'verdict' is neither true nor false")
    return said, line(part(row, "reason"), "the reason")


def natural(text: str) -> str:
    """Prose, line by line."""
    lines = [" ".join(one.split()) for one in _plain(text).splitlines()]
    told = "\n".join(one for one in lines if one)
    if not told:
        raise Unreadable("it is empty")
    return told


def report(row: dict[str, Any], names: tuple[str, ...] = ("findings", "impression")) -> str:
    """The sections in DiagCoT's layout. A model may repeat the section's name inside the section."""
    parts = {name: _NAMED.sub("", line(part(row, name), name)) for name in names}
    return report_answer(parts.get("findings", ""), parts.get("impression", ""))


def clean(text: str, case: Case, hide_reference: bool) -> str:
    """A thought as it is. Raises Unreadable if it has tags of the layout or, if it must not, speaks of a reference."""
    if _TAG.search(text):
        raise Unreadable("it has think or answer tags")
    if hide_reference and mention(text, case.task, f"{case.guide}\n{case.question}"):
        raise Unreadable("it speaks of a reference; speak of the X-ray alone")
    return text


def _plain(text: str) -> str:
    """Text that can be written and asked again: no half characters of an escape, no mark that stands for a film."""
    return text.encode(errors="replace").decode().replace(IMAGE, " ")
