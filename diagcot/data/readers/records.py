"""Rows of a table as records, with ids, labels and boxes in the terms of this project, by an entry of the registry."""

import ast
import contextlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagcot.data.errors import described
from diagcot.data.geometry import iou
from diagcot.data.readers import tables
from diagcot.data.readers.given_questions import read_question
from diagcot.data.readers.registry import CollectionEntry, ColumnSpec, TableColumn, TableFile
from diagcot.data.study import age_of, sex_of, split_of, view_of
from diagcot.jobs.names import HALF, id_fault

NAMES = ("image", "study", "patient", "path")
IDS = (*NAMES, "folder")  # of which paths are made
SECTIONS = ("report", "findings", "impression", "indication", "comparison")
_VALUES = {"1": 1, "1.0": 1, "true": 1, "0": 0, "0.0": 0, "false": 0, "-1": -1, "-1.0": -1}
SAME_REGION = 0.4
"""Boxes of two raters mark the same region if their intersection over union is at least this."""

Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class RawBox:
    """A box in the numbers of the table. size: that of the image they refer to; (0, 0) for the size of the image file."""

    label: str
    corners: Corners
    size: tuple[float, float]
    phrase: str = ""
    rater: str = ""


class RowError(ValueError):
    """A row that cannot be used; the message says why."""


class TableLayout:
    """How the rows of one table are read."""

    def __init__(self, table: TableFile, dataset: CollectionEntry) -> None:
        self.table, self._rename = table, dataset.rename
        self._any_case = {name.lower(): own for name, own in dataset.rename.items()}
        self._where = {name: re.compile(pattern) for name, pattern in table.where.items()}
        self.fields = {name: _column(getattr(table, name)) for name in (*NAMES, *SECTIONS, "order", "view", "split",
                       "folder", "width", "height", "age", "sex", "rater")}  # fmt: skip
        self._labels, self._boxes = table.labels, table.boxes
        specs = [field for field in self.fields.values() if field]
        plain: list[str] = list(self._where)
        self._label_value = _column(table.labels.value) if table.labels else None
        if table.labels:
            plain += table.labels.columns or [table.labels.column]
            specs += [self._label_value] if self._label_value else []
        asked = table.questions
        self._question = (
            {name: _column(getattr(asked, name)) for name in ("text", "answer", "earlier", "reason")} if asked else {}
        )
        specs += [field for field in self._question.values() if field]
        if table.boxes:
            specs += [field for field in (_column(table.boxes.label), _column(table.boxes.phrase)) if field]
            plain += [*table.boxes.corners, *table.boxes.extent, *(n for n in table.boxes.size if isinstance(n, str))]
        self._taken_from = [(t.collection, _column(t.image), _column(t.patient)) for t in table.taken_from]
        specs += [field for _, *fields in self._taken_from for field in fields if field]
        self._label_of = _column(table.boxes.label) if table.boxes else None
        self._phrase_of = _column(table.boxes.phrase) if table.boxes else None
        self.columns = list(dict.fromkeys(plain + [n for field in specs if not field.optional for n in field.names]))
        optional = [n for field in specs if field.optional for n in field.names]
        optional += [asked.options] if asked and asked.options else []
        self.optional = [name for name in dict.fromkeys(optional) if name not in self.columns]

    def records(self, path: Path, fault: tables.Fault) -> Iterator[tuple[int, dict[str, Any]]]:
        """(line, record) of each row, without empty values; `labels` as {name: value}, `boxes` as RawBoxes.

        fault: called with (file:line, reason) for each row that cannot be used.
        """
        names = (*self.columns, *self.optional)
        table = self.table
        for line, row in tables.rows(
            path, self.columns, self.optional, header=table.header, delimiter=table.delimiter,
            encoding=table.encoding, explode=table.explode, fault=fault,
        ):  # fmt: skip
            where, values = f"{path}:{line}", dict(zip(names, row, strict=True))
            if not all(pattern.fullmatch(values[name]) for name, pattern in self._where.items()):
                continue
            try:
                yield line, self._record(values, where)
            except RowError as error:
                fault(where, str(error))

    def _record(self, row: Mapping[str, str], where: str) -> dict[str, Any]:
        record: dict[str, Any] = {}
        for name, field in self.fields.items():
            value = _value(field, row, where, name in IDS) if field else ""
            if value:
                record[name] = value
        key = self.table.join or "image"
        if key not in record:
            raise RowError(f"the row names no {key}")
        for name, convert in _CONVERTED.items():
            if name in record:
                record[name] = convert(record[name], name)
        if self.table.sentences:
            record["sentence"] = True
        if self._labels:
            record["labels"] = dict(self._labels_of(row))
        found = {
            "names": [name for taken in self._taken_from for name in _names_in(*taken, row)],
            "boxes": list(self._boxes_of(row, where, record.get("rater", ""))),
            "question": self._question_of(row, where),
        }
        return record | {name: value for name, value in found.items() if value}

    def _question_of(self, row: Mapping[str, str], where: str) -> dict[str, Any] | None:
        """The question of a row: the fields of `Question` but `image`, as JSON has them."""
        asked = self.table.questions
        if asked is None:
            return None
        values = {name: _value(field, row, where) if field else "" for name, field in self._question.items()}
        try:
            return read_question(
                values["text"], values["answer"], row.get(asked.options, ""), values["earlier"], values["reason"]
            )
        except ValueError as error:
            raise RowError(str(error)) from error

    def _labels_of(self, row: Mapping[str, str]) -> Iterator[tuple[str, int]]:
        assert self._labels is not None
        if self._labels.columns:
            for name in self._labels.columns:
                value = row[name].lower().replace(",", ".")
                if value and value != "nan":
                    if value not in _VALUES:
                        raise RowError(f"{name} is {described(row[name])}, which is none of 1, 0, -1")
                    yield self._own_name(name), _VALUES[value]
            return
        text = row[self._labels.column]
        if self._labels.separator == "list":
            names = _parse_list(text, self._labels.column)
        else:
            names = text.split(self._labels.separator) if self._labels.separator else [text]
        value = _value(self._label_value, row, "") if self._label_value else "1"
        if value and value not in _VALUES:
            raise RowError(f"the value of a label is {described(value)}, which is none of 1, 0, -1")
        for name in names if value else ():
            if own_name := self._own_name(name.strip()):
                yield own_name, _VALUES[value]

    def _own_name(self, name: str) -> str:
        return self._rename.get(name, self._any_case.get(name.lower(), name))

    def _boxes_of(self, row: Mapping[str, str], where: str, rater: str) -> Iterator[RawBox]:
        boxes = self._boxes
        if boxes is None:
            return
        columns = boxes.corners or boxes.extent
        texts = [row[name] for name in columns]
        if len(texts) == 1:
            texts = [part for part in re.split(r"[\s,;\[\]()]+", texts[0]) if part]
        if not any(texts):
            return
        if len(texts) % 4:
            raise RowError(f"a box of {len(texts)} numbers")
        numbers = [_number(text, "a box's number") for text in texts]
        width, height = ((n if isinstance(n, int) else _number(row[n], n)) for n in boxes.size or (0, 0))
        label = self._own_name(_value(self._label_of, row, where)) if self._label_of else ""
        phrase = _value(self._phrase_of, row, where) if self._phrase_of else ""
        for a, b, c, d in zip(numbers[::4], numbers[1::4], numbers[2::4], numbers[3::4], strict=True):
            x1, y1, x2, y2 = (a, b, c, d) if boxes.corners else (a, b, a + c, b + d)
            if not (x1 < x2 and y1 < y2):
                raise RowError(f"a box from {x1:g}, {y1:g} to {x2:g}, {y2:g} has no area")
            if label:
                yield RawBox(label, (x1, y1, x2, y2), (width, height), phrase, rater)


def _names_in(
    collection: str, image: TableColumn | None, patient: TableColumn | None, row: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """(collection, name) of the image, and of its patient, in another collection."""
    for mark, field in (("", image), ("#", patient)):
        with contextlib.suppress(RowError):
            if field and (name := _value(field, row, "")):
                yield collection, mark + name


def _split(text: str, what: str) -> str:
    try:
        return split_of(text)
    except ValueError as error:
        raise RowError(str(error)) from error


def _pixels(text: str, what: str) -> int:
    return int(_number(text, what))


_CONVERTED: dict[str, Callable[[str, str], Any]] = {
    "view": lambda text, what: view_of(text),
    "split": _split,
    "age": lambda text, what: age_of(text),
    "sex": lambda text, what: sex_of(text),
    "width": _pixels,
    "height": _pixels,
}


def _column(field: ColumnSpec) -> TableColumn | None:
    return field if isinstance(field, TableColumn) or field is None else TableColumn(column=field)


def _value(field: TableColumn, row: Mapping[str, str], where: str, is_id: bool = False) -> str:
    name, value = next(((n, row[n]) for n in field.names if row[n]), ("", field.value))
    if is_id and value:
        tables.identifier(value, where, name)
    if value and field.pattern:
        match = re.fullmatch(field.pattern, value)
        if match is None:
            raise RowError(
                f"{name} is {described(value)}, not of the form {field.pattern}; is this the table as published?"
            )
        value = (match[1] or "") if match.re.groups else value
    if is_id and (why := id_fault(value)):
        raise RowError(f"{name} {why}: is this the table as published?")
    if HALF.search(value):
        raise RowError(f"{name} holds half of a character, which is no text in UTF-8")
    return field.map.get(value, value)


def _number(text: str, what: str) -> float:
    try:
        number = tables.number(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise RowError(f"{what} is {described(text)}, which is not a number")
    return number


def _parse_list(text: str, column: str) -> list[str]:
    """The texts of a Python or JSON list, without blank ones; an empty text and NaN give an empty list."""
    if not text or text == "nan":
        return []
    try:
        value = ast.literal_eval(text)
        return [str(item) for item in value if str(item).strip()]
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise RowError(f"{column} is not a list of names") from error


def agreed(boxes: Sequence[RawBox], quorum: int) -> list[RawBox]:
    """Boxes that at least `quorum` raters gave, each the mean of theirs; boxes without a rater stay as they are."""
    groups: list[list[RawBox]] = []
    for box in boxes:
        for group in groups:
            first = group[0]
            joins = box.rater and first.label == box.label and all(box.rater != other.rater for other in group)
            if joins and iou([_mean(group)], [box.corners])[0, 0] >= SAME_REGION:
                group.append(box)
                break
        else:
            groups.append([box])
    return [
        RawBox(group[0].label, _mean(group), group[0].size, group[0].phrase)
        for group in groups
        if len(group) >= quorum or not group[0].rater
    ]


def _mean(boxes: Sequence[RawBox]) -> Corners:
    x1, y1, x2, y2 = (sum(values) / len(boxes) for values in zip(*(box.corners for box in boxes), strict=True))
    return x1, y1, x2, y2
