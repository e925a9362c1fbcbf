"""Parses JSON in bounded memory.

`[{},{},…]` takes 24 times its size when it is parsed, 250 MB 6 GB, while rows of texts and numbers take three to eight times
theirs. What would take far more than those is refused before.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

JSON_PLENTY = 1 << 30
"""Bytes of values that are always allowed."""
JSON_DENSEST, JSON_PACKED = 16, 300
"""How many times the size of the text its values may take, and how many times the size of a file that it is packed in: texts are
packed to a twentieth."""
_OPENED, _NEXT = 160, 40
"""Bytes that an object, a list or an element takes at least, with what is in it, and those of each further value, about."""
_BLANK = re.compile(r"[ \t\n\r]*")
_MOST_FOR_EACH = (_OPENED + _NEXT) // 2  # `{` or `[`, and a comma, in two characters


def json_fault(text: str | bytes, file_size: int | None = None) -> str:
    """Why a text of JSON or XML is not to be parsed; empty if it can be. file_size: bytes of the file that it is packed in."""
    if len(text) * _MOST_FOR_EACH <= JSON_PLENTY:
        return ""
    marks = [text.count(mark) for mark in ("{[<," if isinstance(text, str) else (b"{", b"[", b"<", b","))]  # type: ignore[arg-type]
    size = _OPENED * sum(marks[:3]) + _NEXT * marks[3]
    most = JSON_DENSEST * len(text)
    if file_size is not None:
        most = min(most, JSON_PACKED * file_size)
    if size <= max(JSON_PLENTY, most):
        return ""
    return f"its values would take over {max(JSON_PLENTY, most) >> 20} MB, more than those of any data of its size"


class RepeatedKey(ValueError):
    """An object of a JSON text gives one key two values."""

    def __init__(self) -> None:
        super().__init__("a key stands twice in one object, with two values: keep one of them")


def _with_distinct_keys(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object. Raises RepeatedKey, where `json` would keep the last value in silence."""
    found = dict(members)
    if len(found) < len(members) and any(found[key] != value for key, value in members):
        raise RepeatedKey
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_with_distinct_keys)
"""Reads JSON that others wrote. It raises RepeatedKey."""


def parse_json(text: str | bytes, *, strict: bool = True, foreign: bool = False) -> Any:
    """The value of a JSON text. Raises ValueError, also for one that is refused, and RecursionError.

    strict: as `json.loads`. foreign: a person or another program wrote it; RepeatedKey is raised too.
    """
    if why := json_fault(text):
        raise ValueError(why)
    return json.loads(text, strict=strict, object_pairs_hook=_with_distinct_keys if foreign else None)


def json_elements(text: str) -> Iterator[Any]:
    """The elements of a JSON text that is a list, one in memory at a time. Raises as `parse_json`, with RepeatedKey."""
    if why := json_fault(text):
        raise ValueError(why)
    at = _after_blanks(text, 0, "[")
    if text[at : at + 1] != "]":
        while True:
            value, at = DECODER.raw_decode(text, at)
            yield value
            at = _after_blanks(text, at)
            if text[at : at + 1] == "]":
                break
            at = _after_blanks(text, at, ",")
    if (end := _after_blanks(text, at + 1)) != len(text):
        raise json.JSONDecodeError("Extra data", text, end)


def _after_blanks(text: str, at: int, mark: str = "") -> int:
    """The place after blanks; with a mark, after blanks, the mark and blanks. Raises JSONDecodeError if it is not there."""
    at = _BLANK.match(text, at).end()  # type: ignore[union-attr]
    if not mark:
        return at
    if text[at : at + 1] != mark:
        raise json.JSONDecodeError(f"Expecting {mark!r}", text, at)
    return _BLANK.match(text, at + 1).end()  # type: ignore[union-attr]
