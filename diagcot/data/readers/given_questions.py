"""The questions that a collection itself asks: their options and answers in one form, from the spellings of several sets."""

import ast
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from diagcot.data.study import Question

YES_NO = ("Yes", "No")
MOST_OPTIONS = 7  # closed questions have the letters A to G
NOTHING = "None"
"""The answer of a question whose list of answers is empty."""

_LETTERED = re.compile(r"\(?([A-Z])\)?\s*[.):-]\s*(?=\S)")
_LETTERS = re.compile(r"[A-Z](?:\s*(?:,|;|and)\s*[A-Z])*")


def read_question(text: str, answer: str, options: str, earlier: str = "", reason: str = "") -> dict[str, Any] | None:
    """The fields of `Question`, but `image`, of the values of a row; None for a row without a question.

    answer: a text, or a JSON or Python list of texts. options: such a list, or empty.
    Raises ValueError that says what is wrong with the question, without its text.
    """
    if not text:
        return None
    answers, choices = _texts(answer), _options(_texts(options) or [])
    if answers is None:
        raise ValueError("a question without an answer")
    if not choices and [_plain(one) for one in answers] in (["yes"], ["no"]):
        choices = list(YES_NO)
    if choices:
        answers = _chosen(answers, choices)
    return {
        "text": _line(text),
        "answers": answers or [NOTHING],
        "options": choices,
        "earlier": earlier,
        "reason": _line(reason),
    }


def questions_of(records: Iterable[Mapping[str, Any]], image: str = "") -> Iterator[Question]:
    """The questions of records, about an image or about the whole study."""
    for record in records:
        if fields := record.get("question"):
            lists = {name: tuple(fields[name]) for name in ("answers", "options")}
            yield Question(fields["text"], **lists, image=image, earlier=fields["earlier"], reason=fields["reason"])


def _texts(value: str) -> list[str] | None:
    """The texts of a list, or a text alone; None for nothing."""
    if not value or value == "nan":
        return None
    if value[0] == "[" and value[-1] == "]":
        for read in (json.loads, ast.literal_eval):
            try:
                return [_line(str(item)) for item in read(value) if str(item).strip()]
            except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
                continue
    return [_line(value)]


def _options(texts: Sequence[str]) -> list[str]:
    """Options without their letters, if all have them in order."""
    marks = [_LETTERED.match(text) for text in texts]
    if texts and all(mark and mark[1] == chr(ord("A") + place) for place, mark in enumerate(marks)):
        texts = [text[mark.end() :] for text, mark in zip(texts, marks, strict=True) if mark]
    options = [text.rstrip(" .") for text in texts]
    if len(options) == 1 or len(options) > MOST_OPTIONS:
        raise ValueError(f"a question with {len(options)} options; from 2 to {MOST_OPTIONS} can be asked")
    if len({_plain(option) for option in options}) < len(options):
        raise ValueError("a question with two options of the same words")
    return options


def _chosen(answers: Sequence[str], options: Sequence[str]) -> list[str]:
    """The options that the answers name by letter or by text, in the order of the options."""
    places = {_plain(option): place for place, option in enumerate(options)}
    found: set[int] = set()
    for answer in answers:
        mark = _LETTERED.match(answer)
        for text in (answer, answer[mark.end() :] if mark else ""):
            if _plain(text) in places:
                found.add(places[_plain(text)])
                break
        else:
            if _LETTERS.fullmatch(answer.rstrip(" .")) is None:
                raise ValueError("an answer that is none of the options")
            found |= {ord(letter) - ord("A") for letter in re.findall(r"[A-Z]", answer)}
    if not found or max(found) >= len(options):
        raise ValueError("an answer that is none of the options")
    return [options[place] for place in sorted(found)]


def _line(text: str) -> str:
    return " ".join(text.split())


def _plain(text: str) -> str:
    return text.strip(" .").lower()
