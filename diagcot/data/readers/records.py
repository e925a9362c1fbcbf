"""A row of a table becomes a record: its names, labels and boxes in this project's terms, by an entry of the registry."""

import ast
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagcot.data.readers import tables
from diagcot.data.readers.registry import Boxes, Column, Dataset, Field, TableFile
from diagcot.data.study import split_of, view_of

NAMES = ("image", "study", "patient", "path")
SECTIONS = ("report", "findings", "impression", "indication", "comparison")
_VALUES = {"1": 1, "1.0": 1, "0": 0, "0.0": 0, "-1": -1, "-1.0": -1}
SAME = 0.4
"""Boxes of two raters mark the same region from this intersection over union on."""

Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class RawBox:
    """A box in the numbers of the table; size (0, 0) where they count in the film's own pixels."""

    label: str
    corners: Corners
    size: tuple[float, float]
    phrase: str = ""
    rater: str = ""


class Unfit(ValueError):
    """A row that cannot be used, and why."""


class Layout:
    """How the rows of one table are read."""

    def __init__(self, table: TableFile, dataset: Dataset) -> None:
        self.table, self._rename = table, dataset.rename
        self.fields = {name: _column(getattr(table, name)) for name in (*NAMES, *SECTIONS, "order", "view", "split",
                       "folder", "width", "height", "rater")}  # fmt: skip
        self._labels, self._boxes = table.labels, table.boxes
        used = [field for field in self.fields.values() if field]
        plain: list[str] = []
        if table.labels:
            plain += table.labels.columns or [table.labels.column]
        if table.boxes:
            used += [field for field in (_column(table.boxes.label), _column(table.boxes.phrase)) if field]
            plain += [*table.boxes.corners, *table.boxes.extent, *(n for n in table.boxes.size if isinstance(n, str))]
        self._label_of = _column(table.boxes.label) if table.boxes else None
        self._phrase_of = _column(table.boxes.phrase) if table.boxes else None
        self.columns = list(dict.fromkeys(plain + [n for field in used if not field.optional for n in field.names]))
        free = [n for field in used if field.optional for n in field.names]
        self.optional = [name for name in dict.fromkeys(free) if name not in self.columns]

    def records(self, path: Path, fault: tables.Fault) -> Iterator[tuple[int, dict[str, Any]]]:
        """(line, record) of each row: only what is not empty, `labels` as {name: value} and `boxes` as RawBoxes."""
        names = (*self.columns, *self.optional)
        table = self.table
        for line, row in tables.rows(
            path, self.columns, self.optional, header=table.header, delimiter=table.delimiter,
            encoding=table.encoding, explode=table.explode, fault=fault,
        ):  # fmt: skip
            where = f"{path}:{line}"
            try:
                yield line, self._record(dict(zip(names, row, strict=True)), where)
            except Unfit as error:
                fault(where, str(error))

    def _record(self, row: Mapping[str, str], where: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, field in self.fields.items():
            value = _value(field, row, where, name in NAMES) if field else ""
            if value:
                found[name] = value
        key = self.table.join or "image"
        if key not in found:
            raise Unfit(f"the row names no {key}")
        if "view" in found:
            found["view"] = view_of(found["view"])
        if "split" in found:
            try:
                found["split"] = split_of(found["split"])
            except ValueError as error:
                raise Unfit(str(error)) from error
        for side in ("width", "height"):
            if side in found:
                found[side] = int(_number(found[side], side))
        if self._labels:
            found["labels"] = dict(self._labelled(row))
        if self._boxes and (box := self._box(self._boxes, row, where, found.get("rater", ""))):
            found["boxes"] = [box]
        return found

    def _labelled(self, row: Mapping[str, str]) -> Iterator[tuple[str, int]]:
        assert self._labels is not None
        if self._labels.columns:
            for name in self._labels.columns:
                if row[name]:
                    if row[name] not in _VALUES:
                        raise Unfit(f"{name} is {row[name]!r}, which is none of 1, 0, -1")
                    yield self._own(name), _VALUES[row[name]]
            return
        text = row[self._labels.column]
        if self._labels.separator == "list":
            given = _listed(text, self._labels.column)
        else:
            given = text.split(self._labels.separator) if self._labels.separator else [text]
        for name in given:
            if own := self._own(name.strip()):
                yield own, 1

    def _own(self, name: str) -> str:
        return self._rename.get(name, name)

    def _box(self, boxes: Boxes, row: Mapping[str, str], where: str, rater: str) -> RawBox | None:
        columns = boxes.corners or boxes.extent
        texts = [row[name] for name in columns]
        if len(texts) == 1:
            texts = [part for part in re.split(r"[\s,;\[\]()]+", texts[0]) if part]
        if not any(texts):
            return None
        if len(texts) != 4:
            raise Unfit(f"a box of {len(texts)} numbers")
        a, b, c, d = (_number(text, "a box's number") for text in texts)
        x1, y1, x2, y2 = (a, b, c, d) if boxes.corners else (a, b, a + c, b + d)
        if not (x1 < x2 and y1 < y2):
            raise Unfit(f"a box from {x1:g}, {y1:g} to {x2:g}, {y2:g} holds nothing")
        width, height = ((n if isinstance(n, int) else _number(row[n], n)) for n in boxes.size or (0, 0))
        label = self._own(_value(self._label_of, row, where)) if self._label_of else ""
        if not label:
            return None
        phrase = _value(self._phrase_of, row, where) if self._phrase_of else ""
        return RawBox(label, (x1, y1, x2, y2), (width, height), phrase, rater)


def _column(field: Field) -> Column | None:
    return field if isinstance(field, Column) or field is None else Column(column=field)


def _value(field: Column, row: Mapping[str, str], where: str, named: bool = False) -> str:
    name, value = next(((n, row[n]) for n in field.names if row[n]), ("", field.value))
    if named and value:
        tables.identifier(value, where, name)
    if value and field.pattern:
        match = re.fullmatch(field.pattern, value)
        if match is None:
            raise Unfit(f"{name} is {value!r}, not of the form {field.pattern}; is this the table as published?")
        value = match[1] if match.re.groups else value
    return field.map.get(value, value)


def _number(text: str, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise Unfit(f"{what} is {text!r}, which is no number")
    return number


def _listed(text: str, column: str) -> list[str]:
    """The texts of a Python or JSON list; blanks and NaN are none."""
    if not text or text == "nan":
        return []
    try:
        value = ast.literal_eval(text)
        return [str(item) for item in value if str(item).strip()]
    except (ValueError, SyntaxError, TypeError) as error:
        raise Unfit(f"{column} is not a list of names") from error


def agreed(boxes: Sequence[RawBox], wanted: int) -> list[RawBox]:
    """Boxes that at least `wanted` raters gave, each the mean of theirs; boxes of nobody in particular stay as they are."""
    groups: list[list[RawBox]] = []
    for box in boxes:
        for group in groups:
            first = group[0]
            other = box.rater and first.label == box.label and all(box.rater != given.rater for given in group)
            if other and _iou(_mean(group), box.corners) >= SAME:
                group.append(box)
                break
        else:
            groups.append([box])
    return [
        RawBox(group[0].label, _mean(group), group[0].size, group[0].phrase)
        for group in groups
        if len(group) >= wanted or not group[0].rater
    ]


def _mean(boxes: Sequence[RawBox]) -> Corners:
    x1, y1, x2, y2 = (sum(values) / len(boxes) for values in zip(*(box.corners for box in boxes), strict=True))
    return x1, y1, x2, y2


def _iou(a: Corners, b: Corners) -> float:
    across = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    down = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - across * down
    return across * down / union
