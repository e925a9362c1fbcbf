"""Answers of a model that ran elsewhere: CSV, JSON lines, JSON, Parquet, or ReXrank's file, an object of studies.

ReXrank's file: rajpurkarlab/ReXrank, example_files/prediction.json (`model_prediction` of each study), and the CSV that its
evaluation makes of it (`study_id`, `report`; example_files/evaluation_script.md).
"""

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from diagcot.data.errors import DataError
from diagcot.exchange import tables
from diagcot.jobs.names import HALF
from diagcot.jobs.state import json_text, reading

NAMES = ("id", "sample_id", "image_id", "dicom_id", "image", "study_id", "study")
"""Columns that name what was asked, the most precise first."""
TEXTS = ("model_prediction", "prediction", "generated_report", "output", "response", "answer", "text", "report")
"""Columns that hold the answer; the first that the file has is used, since a `report` may be the reference."""
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


class ForeignAnswer(NamedTuple):
    """An answer: where it stands (file and line or position), the names of what was asked, and the text."""

    place: str
    names: tuple[str, ...]
    text: str


def read(path: Path, columns: Mapping[str, str]) -> Iterator[ForeignAnswer | str]:
    """The answers of a file, in its order; for a row that is none, where it stands and why.

    columns: `id`, `study` or `text` -> the name of the column in the file. Raises DataError if the file cannot be read.
    """
    names = [columns[name] for name in ("id", "study") if name in columns] or NAMES
    rows = list(_rows(path))
    held = {name for _, row in rows if isinstance(row, Mapping) for name in row}
    # One column for the whole file: where a row lacks the model's text, its `report` is not taken for it.
    column = columns.get("text") or next((name for name in TEXTS if name in held), TEXTS[0])
    for place, row in rows:
        if not isinstance(row, Mapping):
            yield f"{place}: not an object"
            continue
        if None in row:
            yield f"{place}: more fields than the header has (a delimiter or a quote in text without quotes?)"
            continue
        found = tuple(
            str(row[name]).strip() for name in names if isinstance(row.get(name), str | int) and str(row[name]).strip()
        )
        text = row.get(column)
        if not found:
            yield f"{place}: names no study (columns {', '.join(names)})"
        elif not isinstance(text, str) or not text.strip():
            yield f"{place}: has no answer (column {column})"
        elif any(map(HALF.search, [*found, text])):
            yield f"{place}: holds half of a character, which is no text in UTF-8"
        else:
            yield ForeignAnswer(place, found, text)


def _rows(path: Path) -> Iterator[tables.Placed]:
    if path.suffix in _DELIMITERS:
        yield from _table(path)
        return
    if path.suffix == ".json":
        content = _object(path)
        if isinstance(content, dict) and content and all(isinstance(value, dict | str) for value in content.values()):
            for number, (study, value) in enumerate(content.items(), 1):
                yield (
                    f"{path.name}:{number}",
                    {"study_id": study} | (value if isinstance(value, dict) else {"text": value}),
                )
            return
    yield from tables.rows(path)


def _object(path: Path) -> Any:
    """The value of a JSON file that is no list; None for a list, for JSON lines, and for what `tables` says is wrong."""
    data = tables.in_utf8(path, reading.read_bytes(path))
    try:
        return None if tables.is_list(data) else json_text.parse_json(data, foreign=True)
    except json_text.RepeatedKey as error:
        raise DataError(f"{path}: {error}") from None
    except (ValueError, RecursionError):
        return None


def _table(path: Path) -> Iterator[tables.Placed]:
    try:
        text = reading.read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}); convert it first") from None
    csv.field_size_limit(1 << 24)
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=_DELIMITERS[path.suffix], strict=True)
    try:
        header = list(rows.fieldnames or ())
        if len(set(header)) < len(header):
            raise DataError(f"{path}: its header names one column twice: rename one of the two")
        for row in rows:
            yield f"{path.name}:{rows.line_num}", row
    except csv.Error as error:
        raise DataError(
            f"{path}:{rows.line_num}: not a row of a table ({error}), usually because a quote is not closed in it or before"
            " it: write the table again"
        ) from None
