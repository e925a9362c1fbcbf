"""Records of documents: JSON, JSON lines, COCO, and XML of Pascal VOC. `diagcot.data.readers.tables` makes rows of them."""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO
from xml.etree import ElementTree
from xml.parsers import expat

from diagcot.data.errors import DataError
from diagcot.jobs.state import json_text, reading

Record = dict[str, Any]
KEY = "key"
"""The column that names a record whose file does: its key in an object of objects, the name of an XML file."""

_LONG = 1 << 20  # characters of a line from which it is checked
_MEMBER = re.compile(r'\s*"(?:[^"\\]|\\.)*"\s*:\s*\{')
_FIRST = re.compile(r"\s*\{" + _MEMBER.pattern)
_BLANK = re.compile(r"\s*")
_BETWEEN = re.compile(r"\s*([,}])\s*")
_COLON = re.compile(r"\s*:\s*")


def records(path: Path, text: TextIO, kind: str) -> Iterator[tuple[int, Record]]:
    """(line, or number from 1) of each record. kind: .jsonl, .json or .xml. Raises DataError that names the file."""
    return {".jsonl": _json_lines, ".json": _json, ".xml": _xml}[kind](path, text)


def _json_lines(path: Path, text: TextIO) -> Iterator[tuple[int, Record]]:
    for number, line in enumerate(text, 1):
        if line.strip():
            if len(line) > _LONG:
                _refuse_bomb(path, line)
            try:
                record = json_text.parse_json(line, foreign=True)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}:{number} is not JSON ({error}); download it again") from error
            if not isinstance(record, dict):
                raise DataError(f"{path}:{number} is not a JSON object")
            yield number, record


def _json(path: Path, text: TextIO) -> Iterator[tuple[int, Record]]:
    """Records of a list, of the lists in an object, of an object of objects, of a COCO file (a row for each annotation, or for
    a bare image), or JSON lines.
    """
    content = _content(path, text)
    if content.lstrip()[:1] == "[":
        yield from _listed(path, content)
        return
    if _is_of_objects(content):
        yield from _members(path, content)
        return
    try:
        value = json_text.parse_json(content, foreign=True)
    except (ValueError, RecursionError) as error:
        if content.lstrip()[:1] == "{" and "\n" in content.strip():  # JSON lines under the name .json
            yield from _json_lines(path, io.StringIO(content))
            return
        raise DataError(f"{path} is not JSON ({error}); download it again") from error
    try:
        if isinstance(value, dict) and {"images", "annotations"} <= set(value):
            found: list[Record] = list(_coco(value))
        elif isinstance(value, dict) and all(isinstance(part, list) for part in value.values()):
            found = [record for part in value.values() for record in part]
        else:  # a file of JSON lines that has one line
            found = [value]
        if not all(isinstance(record, dict) for record in found):
            raise TypeError("its records are not objects")
    except (TypeError, KeyError, ValueError) as error:
        raise DataError(f"{path} is neither a list of records nor COCO ({type(error).__name__}: {error})") from error
    yield from enumerate(found, 1)


def _content(path: Path, text: TextIO) -> str:
    """The whole text. Raises DataError if what is parsed of it would fill memory."""
    content = "".join(iter(lambda: text.read(1 << 20), ""))
    _refuse_bomb(path, content)
    return content


def _refuse_bomb(path: Path, text: str) -> None:
    """Raise DataError if the records of a text would fill memory."""
    if why := json_text.json_fault(text, reading.patient(path, path.stat).st_size):
        raise DataError(f"{path}: {why.replace('values', 'records')}: they were not read")


def _is_of_objects(content: str) -> bool:
    """Whether a JSON text begins as an object whose members are objects, by the first two of them."""
    first = _FIRST.match(content)
    if first is None:
        return False
    try:
        _, at = json_text.DECODER.raw_decode(content, first.end() - 1)
    except (ValueError, RecursionError):
        return False
    mark = _BETWEEN.match(content, at)
    if mark is not None and mark[1] == ",":
        return _MEMBER.match(content, mark.end()) is not None
    return mark is not None and mark.end() == len(content)


def _members(path: Path, content: str) -> Iterator[tuple[int, Record]]:
    """The members of an object of objects, one at a time: parsed as a whole, a file of 1 GB would take ten."""
    at, number, end = content.index("{") + 1, 0, ","
    while end == ",":
        number += 1
        try:
            name, at = json_text.DECODER.raw_decode(content, _BLANK.match(content, at).end())  # type: ignore[union-attr]
            value, at = json_text.DECODER.raw_decode(content, _COLON.match(content, at).end())  # type: ignore[union-attr]
            mark = _BETWEEN.match(content, at)
        except (ValueError, AttributeError, RecursionError) as error:  # where no colon matches
            raise DataError(f"{path}: its record {number} is damaged ({error}); download it again") from error
        if mark is None or not isinstance(value, dict):
            raise DataError(f"{path}: its record {number} is no object, or the file ends in it; download it again")
        yield number, {KEY: name, **value}
        at, end = mark.end(), mark[1]


def _listed(path: Path, content: str) -> Iterator[tuple[int, Record]]:
    """The records of a list, one at a time, as `_members`."""
    try:
        for number, record in enumerate(json_text.json_elements(content), 1):
            if not isinstance(record, dict):
                raise DataError(f"{path} is neither a list of records nor COCO: its record {number} is no object")
            yield number, record
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}); download it again") from error


def _coco(value: Record) -> Iterator[Record]:
    """An image's fields (its size as image_width and image_height) with category_name, x, y, w, h of one annotation."""
    names = {category["id"]: category["name"] for category in value.get("categories", [])}
    notes: dict[Any, list[Record]] = {}
    for note in value["annotations"]:
        notes.setdefault(note["image_id"], []).append(note)
    for image in value["images"]:
        size = {"image_width": image.get("width"), "image_height": image.get("height")}
        for note in notes.pop(image["id"], [{}]):
            box = dict(zip("xywh", note.get("bbox") or [None] * 4, strict=True))
            yield {**note, **image, **size, **box, "category_name": names.get(note.get("category_id"))}
    if notes:
        raise ValueError(f"{len(notes)} annotated images are not in its list of images")


def _xml(path: Path, text: TextIO) -> Iterator[tuple[int, Record]]:
    """The one record of an XML file: values of its elements by path (`size.width`), and a list of the elements `object`."""
    try:
        root = ElementTree.fromstring(_content(path, text))
        found = [_leaves(root), *map(_leaves, root.findall("object"))]
    except (ElementTree.ParseError, RecursionError) as error:
        raise DataError(f"{path} is not XML ({xml_fault(error)}); download it again") from None
    name = path.name.removesuffix(".gz").removesuffix(".xml")
    others = {at: value for at, value in found[0].items() if not at.startswith("object.")}
    yield 1, {KEY: name, **others, "object": found[1:]}


def xml_fault(error: Exception) -> str:
    """What is wrong with an XML text, and where; the parser's own message quotes the name of an unknown entity."""
    if not isinstance(error, ElementTree.ParseError):
        return type(error).__name__
    return f"{expat.ErrorString(error.code)}: line {error.position[0]}, column {error.position[1]}"


def _leaves(element: ElementTree.Element) -> dict[str, str]:
    """Path below the element -> text, of the elements that have no others in them."""
    found: dict[str, str] = {}
    for child in element:
        inner = _leaves(child)
        found |= {f"{child.tag}.{at}": value for at, value in inner.items()} or {child.tag: child.text or ""}
    return found
