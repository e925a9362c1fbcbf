"""Parsers of model replies: JSON, which may need repair, verdicts, and prose. All raise UnreadableReplyError with the reason.

JSON repair is our own because a repaired reply becomes training data: libraries such as json-repair complete a value
that was cut off; here a value that was cut off is dropped, and no value is ever shortened or invented.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diagcot.cot.search.mentions import reference_mention
from diagcot.cot.search.sample import CoTSample
from diagcot.jobs.state import json_text
from diagcot.tasks.prompts import IMAGE, report_answer, report_text

_NAMED = re.compile(r"^(findings|impression)\s*:\s*", re.IGNORECASE)
_TAG = re.compile(r"</?(?:think|answer)>", re.IGNORECASE)
_FENCE = re.compile(r"```\s*$")  # at the end alone: one inside a string is part of a value
_WORDS = {"True": "true", "False": "false", "None": "null"}
_SECTIONS = re.compile(
    r"findings\s*:\s*(?P<findings>.*?)\s*impression\s*:\s*(?P<impression>.*)", re.IGNORECASE | re.DOTALL
)
_POLARITY = re.compile(
    r"\b(?:agree|match|correspond|consistent)|\b(?P<differs>differ|disagree|contradict|mismatch|wrong)"
)
_NEGATION = re.compile(r"\b(?:no|not|none|nothing|never|without|neither|nor)\b|n't\b")
Step = tuple[str, str]


@dataclass(frozen=True)
class Conclusion:
    """A conclusion as the verifier reads it; of a report with its sections (name -> text)."""

    text: str
    sections: Mapping[str, str] = field(default_factory=dict)


class UnreadableReplyError(ValueError):
    """A reply cannot be used. The message gives the reason as a clause that completes "because …", for the model."""


def read_json(text: str, repair: bool) -> dict[str, Any]:
    """The JSON object of a reply, from its first brace to its last; raw line breaks in strings are allowed.

    repair: also accept code fences, stray commas, Python's constants, text after the object, and a cut-off tail, of
    which whole values are kept and the incomplete one is dropped. Raises UnreadableReplyError.
    """
    body = text[max(text.find("{"), 0) :]
    try:
        row = json_text.parse_json(body[: body.rfind("}") + 1] or body, strict=False)
    except (ValueError, RecursionError) as error:  # not JSON, a number too long, brackets too deep
        if not repair:
            raise UnreadableReplyError(f"it is not JSON: {error}") from error
        try:
            row = json_text.parse_json(repaired(_FENCE.sub("", text)), strict=False)
        except (ValueError, RecursionError):
            raise UnreadableReplyError(f"it is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise UnreadableReplyError("it is not a JSON object")
    return row


def repaired(text: str) -> str:
    """The first object of `text` as JSON, see `read_json`. Text that cannot be repaired is returned unchanged."""
    out: list[str] = []
    stack: list[str] = []  # closing brackets that are still missing
    whole: tuple[int, str] = (0, "")  # length of `out` after the last whole value, and the brackets that close it
    key = False  # whether the next string of an object is a key
    at = text.find("{")
    while 0 <= at < len(text):
        sign = text[at]
        token = _token(text, at)
        if token is None:  # the tail is cut off within a string or a word
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
    """The bracket, comma, colon, white space, string or bare word at `at`; None if the text ends within it."""
    if text[at] in "{}[],:":
        return text[at]
    if text[at].isspace():
        return re.compile(r"\s+").match(text, at).group()  # type: ignore[union-attr]
    found = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s{}\[\],:"]+(?=[\s{}\[\],:"])', re.DOTALL).match(text, at)
    return found.group() if found else None


def line(text: Any, name: str = "a text") -> str:
    """Text as one line with single spaces, without image placeholders. Raises UnreadableReplyError if it is empty."""
    words = " ".join(_plain(text).split()) if isinstance(text, str) else ""
    if not words:
        raise UnreadableReplyError(f"{name} is empty or not text")
    return words


def member(row: Any, name: str) -> Any:
    """The member `name` of a JSON object. Raises UnreadableReplyError if it is missing."""
    if not isinstance(row, dict) or name not in row:
        raise UnreadableReplyError(f"{name!r} is missing")
    return row[name]


def thinking(row: dict[str, Any]) -> tuple[tuple[Step, ...], str]:
    """Steps (title, content) and check; a check that was cut off is empty."""
    entries = member(row, "thinking")
    if not isinstance(entries, list) or not entries:
        raise UnreadableReplyError("'thinking' is not a list of steps")
    steps = tuple(
        (line(member(step, "title"), "a title"), line(member(step, "content"), "a content")) for step in entries
    )
    check = line(row["check"], "the check") if "check" in row else ""
    return steps, check


def conclusion(value: Any, sections: Sequence[str] = ()) -> Conclusion:
    """A conclusion: one text, or the named sections of a report, also where a model writes them as one text."""
    if not sections:
        return Conclusion(line(value, "the conclusion"))
    if isinstance(value, str) and (match := _SECTIONS.search(value)):
        value = match.groupdict()
    if isinstance(value, str) and len(sections) == 1:
        value = {sections[0]: value}
    if not isinstance(value, dict):
        raise UnreadableReplyError(f"the conclusion has no {' and no '.join(sections)}")
    texts = _sections(value, sections)
    return Conclusion(report_text(texts.get("findings", ""), texts.get("impression", "")), texts)


def verdict(row: dict[str, Any]) -> tuple[bool, str]:
    """The verifier's verdict and its reason. Raises UnreadableReplyError, also if the two contradict each other."""
    accepted = member(row, "verdict")
    if not isinstance(accepted, bool):
        raise UnreadableReplyError("'verdict' is neither true nor false")
    reason = line(member(row, "reason"), "the reason")
    if agreement(reason) is (not accepted):
        raise UnreadableReplyError(CONTRADICTION)
    return accepted, reason


CONTRADICTION = "the verdict contradicts its reason"


def agreement(reason: str) -> bool | None:
    """Whether a verifier's reason states agreement (True) or a difference (False); None if it states neither or both.

    It reads stock phrases clause by clause: "all agree", "does not match", "nothing contradicts", "the side differs".
    """
    stated = {
        (match.group("differs") is None) is (_NEGATION.search(clause) is None)
        for clause in re.split(r"[.;,:]|\bbut\b|\band\b|\bwhile\b|\bexcept\b", reason.lower())
        if (match := _POLARITY.search(clause))
    }
    return stated.pop() if len(stated) == 1 else None


def prose(text: str) -> str:
    """Prose with single spaces, empty lines removed. Raises UnreadableReplyError if nothing is left."""
    lines = [" ".join(row.split()) for row in _plain(text).splitlines()]
    text = "\n".join(row for row in lines if row)
    if not text:
        raise UnreadableReplyError("it is empty")
    return text


def report(row: dict[str, Any], names: Sequence[str] = ("findings", "impression")) -> str:
    """The sections in DiagCoT's report layout."""
    parts = _sections(row, names)
    return report_answer(parts.get("findings", ""), parts.get("impression", ""))


def _sections(row: dict[str, Any], names: Sequence[str]) -> dict[str, str]:
    """The texts by name. A model may repeat a section's name inside the section: it is removed."""
    return {name: _NAMED.sub("", line(member(row, name), name)) for name in names}


def clean(text: str, case: CoTSample, hide_reference: bool) -> str:
    """The thought itself. Raises UnreadableReplyError if it has think or answer tags.

    With `hide_reference` it also raises if the thought mentions a reference.
    """
    if _TAG.search(text):
        raise UnreadableReplyError("it has think or answer tags")
    if hide_reference and reference_mention(text, case.task, f"{case.reference_report}\n{case.question}"):
        raise UnreadableReplyError("it mentions a reference; refer only to the X-ray")
    return text


def _plain(text: str) -> str:
    """Text that can be stored and sent again: no lone surrogates of an escape, no image placeholders."""
    return text.encode(errors="replace").decode().replace(IMAGE, " ")
