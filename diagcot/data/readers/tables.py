"""Rows of tables as collections publish them: CSV, TSV, JSON, JSON lines, COCO and XML, gzipped or not.

Rows are streamed, except those of JSON and COCO files. The changes that spreadsheets, editors and broken downloads make
to a table are either undone without loss (byte order marks, Windows newlines, semicolons, headers in another case, decimal
commas) or reported with file and line (error values such as `#NAME?`).
"""

import csv
import difflib
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from diagcot.data.errors import DataError, described
from diagcot.data.readers import documents
from diagcot.jobs.state import reading

Row = tuple[str, ...]
Fault = Callable[[str, str], None]
"""Receives (file:line, reason) of a row that cannot be used."""

ALMOST = 0.75  # similarity, 0 to 1, from which the name of a column counts as mistyped
_FIELD_LIMIT = 16 << 20
_PLENTY, _DENSEST = 256 << 20, 100  # bytes of a table that are always read, and how many times its gzip file it may be
_SUFFIXES = {".tsv": "\t", ".csv": ",", ".txt": ","}
_NUMBERED = re.compile(r"[-+]?\d+(?:[.,]\d+)?[eE][-+]\d+")
_MONTH = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_DATED = re.compile(rf"\d{{1,2}}-{_MONTH}(?:-\d{{2,4}})?|{_MONTH}-\d{{2,4}}|\d{{1,2}}/\d{{1,2}}/\d{{2,4}}")
_ERROR_VALUE = re.compile(r"#[A-ZÀ-Ü/0]{2,9}[!?]|#N/A|#NV|#{3,}")
SPREADSHEET = (
    "a spreadsheet program changed the table when it was opened and saved there, and the value is lost: "
    "download the table again and open it only with text tools"
)

GZIP = b"\x1f\x8b"
WORKBOOKS = {b"PK\x03\x04": "an Excel workbook or another zip file", b"\xd0\xcf\x11\xe0": "an Excel workbook"}
"""First bytes of a file -> what it is."""

csv.field_size_limit(
    _FIELD_LIMIT
)  # the default limit of 128 KiB refuses long reports; it is one limit for the whole process


def rows(
    path: Path,
    columns: Sequence[str],
    optional: Sequence[str] = (),
    *,
    header: Sequence[str] = (),
    delimiter: str = "",
    encoding: str = "utf-8",
    explode: Sequence[str] = (),
    fault: Fault | None = None,
) -> Iterator[tuple[int, Row]]:
    """(line, values of `columns` followed by those of `optional`) of each row; a missing optional column gives "".

    header: names of the columns, for a table without a header line. explode: columns of a JSON record that hold lists of
    the same length, or objects of objects; each position becomes a row, and a record with empty lists becomes one row. The
    fields of listed objects are columns `name.field`. The key of a record in an object of objects, and the name of an XML
    file, is the column `key`.
    fault: called for a row that cannot be used, which is then left out; without it such a row raises an error.
    Raises DataError that names the file, the line and a remedy for missing columns, an incomplete gzip file, text in
    another encoding, and a quote that is never closed.
    """
    at = [0]  # the last line that was read
    try:
        with _text(path, encoding) as text:
            kind = Path(path.name.removesuffix(".gz")).suffix
            if kind in (".json", ".jsonl", ".xml"):
                found = _records(path, text, kind, columns, optional, explode, at)
            else:
                found = _fields(path, text, columns, optional, header, delimiter, fault, at)
            for line, values in found:
                if what := _error_value((*columns, *optional), values):
                    if fault is None:
                        raise DataError(f"{path}:{line}: {what}")
                    fault(f"{path}:{line}", what)
                else:
                    yield line, values
    except UnicodeDecodeError as error:
        line = _undecodable(path, encoding)
        raise DataError(
            f"{path}:{line} is not {encoding} text; convert the file (iconv -f LATIN1 -t UTF-8 …) "
            "or name its `encoding` in the collection's entry"
        ) from error
    except RecursionError as error:  # of a cell that is written as JSON again
        raise DataError(f"{path}:{at[0]} is nested too deeply to be a row; download it again") from error
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path} is incomplete after line {at[0]}: download it again") from error
    except csv.Error as error:
        raise DataError(
            f"{path}:{at[0] + 1}: not a row of a table ({error}); usually a quote that is not closed in this row or "
            "a later one: download the table again"
        ) from error
    except OSError as error:
        reading.check_storage(path, error)
        raise DataError(f"{path} cannot be read ({error}); download it again") from error


class _Unpacked(gzip.GzipFile):
    """A gzip file that no text unpacks to: a bomb is refused before it has filled memory or taken hours."""

    path = Path()
    most = 0

    def read1(self, size: int = -1) -> bytes:
        """Raises DataError."""
        if self.tell() > self.most:
            raise DataError(
                f"{self.path} unpacks to over {_DENSEST} times its size, which no table does: it was not read"
            )
        return super().read1(size)


def _bounded(text: TextIO) -> Iterator[str]:
    """The lines of a text. Raises csv.Error for one that is longer than a field may be."""
    while line := text.readline(_FIELD_LIMIT):
        if len(line) == _FIELD_LIMIT and line[-1] != "\n":
            raise csv.Error(f"a line of over {_FIELD_LIMIT >> 20} MB")
        yield line


def _text(path: Path, encoding: str) -> TextIO:
    """The decompressed text, without a byte order mark and with its original newlines.

    Whether it is compressed is seen by its first bytes, not by its name.
    """
    raw: Any = reading.opened(path)
    try:
        start = raw.peek(4)[:4]
        if start[:1] == b"<" and ".xml" not in path.suffixes:
            raise DataError(f"{path} cannot be read (it is a web page, not a table); download it again")
        if start in WORKBOOKS:
            raise DataError(f"{path} is {WORKBOOKS[start]}, not a table as text: save or unpack it as CSV in UTF-8")
        if start[:2] == GZIP:
            packed = _Unpacked(fileobj=raw)
            packed.myfileobj = raw  # which it closes at its end
            packed.path, packed.most = path, max(_PLENTY, _DENSEST * path.stat().st_size)
            raw = packed
            start = raw.peek(4)[:4]
    except BaseException:
        raw.close()
        raise
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    elif len(start) == 4 and start[1] == start[3] == 0 != start[0]:  # UTF-16 without its mark
        encoding = "utf-16-le"
    elif len(start) == 4 and start[0] == start[2] == 0 != start[1]:
        encoding = "utf-16-be"
    elif encoding == "utf-8":
        encoding = "utf-8-sig"
    return io.TextIOWrapper(raw, encoding=encoding, newline="")


def _undecodable(path: Path, encoding: str) -> int:
    """The first line that cannot be decoded."""
    with path.open("rb") as file:
        packed = file.read(2) == GZIP
    with gzip.open(path) if packed else path.open("rb") as raw:
        for number, line in enumerate(iter(lambda: raw.readline(_FIELD_LIMIT), b""), 1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError:
                return number
    return 1


def _fields(
    path: Path,
    text: TextIO,
    columns: Sequence[str],
    optional: Sequence[str],
    header: Sequence[str],
    delimiter: str,
    fault: Fault | None,
    at: list[int],
) -> Iterator[tuple[int, Row]]:
    delimiter = delimiter or _SUFFIXES.get(Path(path.name.removesuffix(".gz")).suffix, ",")
    names = list(header)
    if not names:
        first = next(_bounded(text), "")
        at[0] = 1
        for candidate in dict.fromkeys((delimiter, ",", ";", "\t")):  # spreadsheets of many countries write semicolons
            names = [name.strip() for name in next(csv.reader([first], delimiter=candidate), [])]
            if all(_named(column, names) for column in columns):
                delimiter = candidate
                break
        else:
            names = [name.strip() for name in next(csv.reader([first], delimiter=delimiter), [])]
    _require(path, columns, names)
    if twice := [name for name in (*columns, *optional) if (found := _named(name, names)) and names.count(found) > 1]:
        raise DataError(f"{path}: its header names the column {twice[0]} twice: rename or remove one of the two")
    places = [names.index(_named(column, names)) for column in columns]
    extra = [names.index(name) if (name := _named(column, names)) else None for column in optional]
    last, skipped = max(places, default=0), at[0]
    reader = csv.reader(_bounded(text), delimiter=delimiter, strict=True)
    for row in reader:
        line = at[0] + 1
        at[0] = reader.line_num + skipped
        if not any(row):
            continue
        if len(row) <= last or any(row[len(names) :]):
            what = (
                f"{len(row)} fields where the header has {len(names)} (a delimiter or newline in text without quotes?); "
                "download the table again"
            )
            if fault is None:
                raise DataError(f"{path}:{line}: {what}")
            fault(f"{path}:{line}", what)
            continue
        values = tuple("" if place is None or place >= len(row) else row[place].strip() for place in (*places, *extra))
        yield line, values


def _records(
    path: Path,
    text: TextIO,
    kind: str,
    columns: Sequence[str],
    optional: Sequence[str],
    explode: Sequence[str],
    at: list[int],
) -> Iterator[tuple[int, Row]]:
    for at[0], original in documents.records(path, text, kind):
        needed = [name for name in columns if name.partition(".")[0] not in explode]
        if any(name not in original for name in needed):
            _require(Path(f"{path}:{at[0]}"), needed, list(original))
        record = original
        if any(name not in original for name in (*columns, *optional)):
            known = list(original)
            record = original | {name: original.get(_named(name, known)) for name in (*columns, *optional)}
        lists = [_items(record.get(name)) for name in explode]
        length = max(map(len, lists), default=0)
        lists = [items or [""] * length for items in lists]  # a list that is not there
        if len({len(items) for items in lists}) > 1:
            raise DataError(f"{path}:{at[0]}: the lists {', '.join(explode)} have different lengths")
        for items in zip(*lists, strict=True) if length else [("",) * len(explode)]:
            flat = {**record, **dict(zip(explode, items, strict=True))}
            for name, item in zip(explode, items, strict=True):
                if isinstance(item, Mapping):  # a list of objects, whose fields are columns `name.field`
                    flat |= {f"{name}.{key}": value for key, value in item.items()}
            yield at[0], tuple(_cell(flat.get(name)) for name in (*columns, *optional))


def _items(value: Any) -> list[Any]:
    """A list, or the members of an object."""
    return list(value.values() if isinstance(value, Mapping) else value or ())


def _error_value(columns: Sequence[str], values: Row) -> str:
    """What is wrong with a row in which a spreadsheet left an error in place of a value, or ""."""
    for column, value in zip(columns, values, strict=True):
        if value[:1] == "#" and _ERROR_VALUE.fullmatch(value):
            return f"{column} is an error value: {SPREADSHEET}"
    return ""


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool):
        return str(int(value))
    return str(value) if isinstance(value, int | float) else json.dumps(value)


def _named(column: str, names: Sequence[str]) -> str:
    """The name of the column in the table, whatever its case, blanks and underscores; "" if there is none, or more than one."""
    if column in names:
        return column
    same = [name for name in names if _plain(name) == _plain(column)]
    return same[0] if len(same) == 1 else ""


def _plain(name: str) -> str:
    return re.sub(r"[\s_\ufeff\"']+", "", name).lower()


def number(text: str) -> float:
    """A number with a decimal point or comma. Raises ValueError; `1,024` may be a thousand, so it is none."""
    if re.fullmatch(r"[-+]?\d+,(?!\d{3}$)\d+(?:[eE][-+]?\d+)?|[-+]?0,\d+", text):
        text = text.replace(",", ".")
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"not a number, but {described(text)}") from None


def _require(path: Path, columns: Sequence[str], names: Sequence[str]) -> None:
    missing = [column for column in columns if not _named(column, names)]
    if missing:
        # Of a table without a header line the names are content: only one that is almost right is shown.
        close = difflib.get_close_matches(missing[0].lower(), [name.lower() for name in names], 1, ALMOST)
        hint = f"; did you mean {close[0]!r}?" if close else f"; its first line has {len(names)} others"
        raise DataError(f"{path} has no columns {', '.join(missing)}{hint}. Is it the published table?")


def identifier(value: str, where: str, column: str) -> str:
    """`value` as the id of a patient, study or image. Raises DataError if a spreadsheet turned it into a number or date."""
    if _NUMBERED.fullmatch(value) or _DATED.fullmatch(value):
        what = "a rounded number" if _NUMBERED.fullmatch(value) else "a date"
        raise DataError(f"{where}: {column} is {what}: {SPREADSHEET}")
    return value
