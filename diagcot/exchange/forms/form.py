"""What a form of rows is, and what all forms share: turns, the images that they name, and what a row says of its study."""

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from diagcot.jobs.names import id_fault

MARK = "<image>"
PAIR = ("user", "assistant")
_ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}

Content = str | Sequence[Mapping[str, Any]]
"""The text of a turn with `MARK` for an image, or its parts as in OpenAI's chat format."""
Turn = tuple[str, Content]
"""(role, content); roles are system, user and assistant."""


class ImageFile(NamedTuple):
    """An image that a row names: the path of its file, or its bytes with a name."""

    path: str
    data: bytes = b""


@dataclass(frozen=True)
class Form:
    """A form of rows: how it is recognised, read and written."""

    columns: tuple[str, ...]  # a row of this form has all of them
    turns: Callable[[Mapping[str, Any]], list[Turn]]  # raises ValueError
    row: Callable[[Sequence[tuple[str, str]], Sequence[ImageFile]], dict[str, Any]]  # raises ValueError
    about: str = ""  # the column that holds what is said of the study; empty: each value has a column


def turns_of(rows: Any, role: str, text: str) -> list[Turn]:
    """Turns of a list of objects with these keys. Raises ValueError."""
    try:
        turns = [(_ROLES[row[role]], row[text]) for row in rows]
    except (KeyError, TypeError):
        raise ValueError(f"turns need {role} (one of {', '.join(_ROLES)}) and {text}") from None
    if not all(isinstance(content, str | list) for _, content in turns):
        raise ValueError(f"a turn's {text} is not a text")
    return turns


def question_and_answer(turns: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """The texts of a conversation of one question and its answer. Raises ValueError for any other."""
    if [role for role, _ in turns] != list(PAIR):
        raise ValueError("has a system text or several turns, which this format has no place for")
    return turns[0][1], turns[1][1]


def image_file(value: Any) -> ImageFile:
    """The image of a value: a path, a `data:` or `file:` address, bytes, or an object that holds one of them.

    Raises ValueError for another value, and for an address on the web: nothing is fetched.
    """
    if isinstance(value, bytes) and value:
        return ImageFile("", value)
    if isinstance(value, str) and value:
        return _of_text(value)
    if isinstance(value, Mapping):
        if isinstance(value.get("bytes"), bytes) and value["bytes"]:
            return ImageFile(_path(str(value.get("path") or "")), value["bytes"])
        for key in ("path", "image", "url", "image_url"):
            if value.get(key):
                return image_file(value[key])
    raise ValueError("an image is neither a path nor bytes")


def _of_text(value: str) -> ImageFile:
    if value.startswith("data:"):
        try:
            return ImageFile("", base64.b64decode(value.partition(";base64,")[2], validate=True))
        except binascii.Error:
            raise ValueError("an image is a `data:` address that is not base64") from None
    if value.startswith("file://"):
        value = unquote(urlsplit(value).path)
    elif "://" in value:
        raise ValueError("names an image on the web, which is not fetched: download it and name the file")
    return ImageFile(_path(value))


def _path(text: str) -> str:
    if why := id_fault(text):
        raise ValueError(f"the path of an image {why}")
    return text
