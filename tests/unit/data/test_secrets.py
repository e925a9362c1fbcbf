"""Errors about data name file, row, column and kind, and never content: each reader is fed a secret wherever it reads."""

import csv
import dataclasses
import gzip
import io
import itertools
import json
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from diagcot.data.readers import documents, mimic_cxr, tables
from diagcot.data.readers.iu_xray import IuXray, r2gen_records
from diagcot.data.readers.records import TableLayout
from diagcot.data.readers.registry import TableFile, entries
from diagcot.data.reports.sections import read_overrides
from diagcot.evaluation import predictions
from diagcot.exchange import answers
from diagcot.exchange import conversations as forms
from diagcot.exchange import tables as exchanged
from diagcot.jobs import UserError
from diagcot.tasks.predictions import Prediction
from diagcot.tasks.samples import read_samples
from tests import chains

SECRET = "Zaphod Beeblebrox born 7/13/1948"
MARKS = ("zaphod", "beeblebrox", "1948")
LINES = {
    "alone": SECRET, "in quotes": f'"{SECRET}"', "an open quote": f'"{SECRET}', "a date": "7/13/1948", "a number": "1948e9",
    "not finite": "inf", "nothing": "",
}  # fmt: skip


def told(work: Callable[[], Iterable[Any]], faults: list[str]) -> str:
    """All that a reader says while it reads: its faults and the error that ends it."""
    try:
        for _ in work():
            pass
    except (UserError, ValueError, KeyError, TypeError) as error:
        faults.append(str(error))
        faults.append(str(error.__cause__ or "") if not isinstance(error, UserError) else "")
    return "\n".join(faults)


def everything(tree: mimic_cxr.MimicCxr) -> list[Any]:
    return [*tree.patients(), *tree.origins(), *tree._labels[0]]


def require_silence(text: str) -> None:
    assert [line for line in text.splitlines() if any(mark in line.lower() for mark in MARKS)] == []


def layouts() -> Iterator[tuple[str, TableFile, TableLayout]]:
    for entry in entries():
        for table in entry.tables:
            yield entry.name, table, TableLayout(table, entry)


TABLES = list(layouts())


def delimited(names: list[str], rows: Iterable[list[str]], delimiter: str) -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter or ",").writerows([names, *rows] if names else rows)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "table", "layout"), TABLES, ids=[f"{name}-{n}" for n, (name, *_) in enumerate(TABLES)]
)
def test_no_table_of_a_collection_is_quoted(name: str, table: TableFile, layout: TableLayout, tmp_path: Path) -> None:
    columns = [*layout.columns, *layout.optional]
    plain = ["1"] * len(columns)
    # Each column in turn, then all of them, hold a secret.
    rows = [[*plain[:at], text, *plain[at + 1 :]] for text in LINES.values() for at in range(len(columns))]
    rows += [[text] * len(columns) for text in LINES.values()]
    faults: list[str] = []
    suffix = next((end for end in (".json", ".jsonl", ".xml", ".tsv") if end in str(table.file)), ".csv")
    if suffix in (".json", ".jsonl", ".xml"):
        records = [dict(zip(columns, row, strict=True)) for row in rows]
        texts = [json.dumps(records), "".join(json.dumps(record) + "\n" for record in records)]
    else:
        texts = [
            delimited([] if table.header else columns, rows, table.delimiter or ("\t" if suffix == ".tsv" else ""))
        ]
    texts += [f"{SECRET}\n{SECRET}", f'{{"{SECRET}": "{SECRET}', f"<a><b>{SECRET}</a>", f'x,"{SECRET}\n']
    for number, text in enumerate(texts):
        for encoded in (text.encode(), text.encode() + SECRET.encode() + b"\xe9\xff"):
            path = tmp_path / f"t{number}{suffix}"
            path.write_bytes(encoded)
            said = told(partial(layout.records, path, lambda *fault: faults.append(": ".join(fault))), [])
            require_silence(said + "\n".join(faults))


def test_no_row_of_mimic_cxr_is_quoted(tmp_path: Path) -> None:
    from diagcot.data.phantom.tree import write_tree  # a small tree that is whole

    (tmp_path / "tree").mkdir()
    write_tree(tmp_path / "tree", 3, size=32)
    faults: list[str] = []
    for path in sorted((tmp_path / "tree").glob("mimic-cxr-2.0.0-*.csv.gz")):
        whole = path.read_bytes()
        with gzip.open(path, "rt", newline="") as text:
            names, *rows = list(csv.reader(text))
        rows = [
            [*rows[0][:at], value, *rows[0][at + 1 :]]
            for at, value in itertools.product(range(len(names)), [*LINES.values(), "99999999999999999999"])
        ]
        for header in (names, []):
            path.write_bytes(gzip.compress(delimited(header, rows, ",").encode()))
            tree = mimic_cxr.MimicCxr(tmp_path / "tree")
            said = told(partial(everything, tree), [])
            require_silence(said + "\n".join(map(": ".join, tree.bad)))
            faults += [said, *map(": ".join, tree.bad)]
        path.write_bytes(whole)
    assert any("not a number of eight digits" in fault for fault in faults)


def test_nothing_of_bad_rows_and_reports_is_in_logs_or_on_screens(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from diagcot.cli.main import main
    from diagcot.data.phantom.tree import write_tree
    from tests.unit.launchers.test_digests import made

    tree = tmp_path / "tree"
    tree.mkdir()
    write_tree(tree, 4, size=32, views=["PA"])
    for path in sorted(tree.glob("mimic-cxr-2.0.0-*.csv.gz")):
        with gzip.open(path, "rt", newline="") as text:
            names, *rows = list(csv.reader(text))
        rows += [[SECRET, *rows[0]][: len(names)], [SECRET] * len(names)]  # shifted by one column, and nonsense
        path.write_bytes(gzip.compress(delimited(names, rows, ",").encode()))
    source = f"{{kind: mimic_cxr, path: {tree}, max_lost: 1}}"
    stage = f"{{name: shard, kind: shard, number: 0, settings: {{sources: [{source}], image_size: 32}}}}"
    run = made(tmp_path / "here", "one", f"name: small\nstages:\n  - {stage}\n")
    logs = ["--logs", str(run.parent), "--run", "one"]
    for verb in ("status", "failures", "verify", "space"):
        main([verb, *logs])
    files = [path for path in run.rglob("*") if path.is_file() and "code" not in path.parts]
    assert (
        "bad_row" in (run / "shard" / "events.jsonl").read_text()
        or "lost" in (run / "shard" / "summary.json").read_text()
    )
    for path in files:
        require_silence(path.read_bytes().decode(errors="replace"))
    shown = capfd.readouterr()
    require_silence(shown.out + shown.err)


def test_no_report_of_iu_xray_is_quoted(tmp_path: Path) -> None:
    columns = ("uid", "MeSH", "indication", "comparison", "findings", "impression")
    (tmp_path / "indiana_projections.csv").write_text(f"uid,filename\n{SECRET},{SECRET}\n1,7/13/1948\n")
    rows = [[value] * len(columns) for value in LINES.values()]
    (tmp_path / "indiana_reports.csv").write_text(delimited(list(columns), rows, ","))
    reader = IuXray(tmp_path)
    require_silence(told(lambda: [*reader.patients()], []) + "\n".join(map(": ".join, reader.bad)))
    report = tmp_path / "xml" / "ecgen-radiology" / "1.xml"
    report.parent.mkdir(parents=True)
    for content in (SECRET, f"<{SECRET}", f"<a>{SECRET}", "<a>&Zaphod;</a>", f"<a><uId id='{SECRET}'/></a>"):
        report.write_text(content)
        reader = IuXray(tmp_path / "xml")
        require_silence(told(reader.patients, []) + "\n".join(map(": ".join, reader.bad)))
        assert reader.bad
    path = tmp_path / "annotation.json"
    for content in (
        SECRET,
        json.dumps({SECRET: SECRET}),
        json.dumps({"train": [{"id": SECRET, "split": SECRET}]}),
        "[1",
    ):
        path.write_text(content)
        require_silence(told(lambda: r2gen_records(path), []))


def refused(path: Path) -> Iterator[str]:
    """Why rows of a file are no answers."""
    return (found for found in answers.read(path, {}) if isinstance(found, str))


def unread(path: Path) -> Iterator[str]:
    """Why rows of a file are no conversations, and where they are."""
    for place, row in exchanged.rows(path):
        try:
            forms.read(row)
        except ValueError as error:
            yield f"{place}: {error}"


DAMAGED = (
    SECRET, f'"{SECRET}', json.dumps([SECRET]), json.dumps({SECRET: SECRET}), json.dumps({SECRET: {SECRET: SECRET}}),
    json.dumps([{SECRET: SECRET}]), json.dumps({"id": [SECRET], "study": SECRET, "messages": SECRET, "split": SECRET}),
    json.dumps({"id": SECRET, "task": SECRET, "images": [{SECRET: 1}], "messages": [[SECRET]]}),
    json.dumps({"conversations": [{"from": SECRET, "value": SECRET}], "images": [SECRET], "split": SECRET}),
    json.dumps({"messages": [{"role": SECRET, "content": SECRET}]}), "\x00" + SECRET, "<a>&Zaphod;</a>",
    json.dumps({"images": [{"id": SECRET}], "annotations": [{"image_id": SECRET, "bbox": [SECRET]}], "categories": [{}]}),
)  # fmt: skip


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".xml", ".csv", ".parquet"])
def test_no_document_is_quoted(suffix: str, tmp_path: Path) -> None:
    readers: list[Callable[[Path], Iterable[Any]]] = [
        lambda path: exchanged.rows(path),
        lambda path: map(faults.append, refused(path)),
        lambda path: predictions.read([path]),
        lambda path: predictions.distinct([path], compared=True),
        lambda path: predictions.joined([path], "same", lambda value: isinstance(value, bool)),
        lambda path: predictions.read_parquet(path),
        lambda path: read_samples(path),
        lambda path: read_overrides(path),
        lambda path: tables.rows(path, ("image", "label"), fault=lambda *fault: faults.append(": ".join(fault))),
        lambda path: map(faults.append, unread(path)),
    ]
    if suffix in (".json", ".jsonl", ".xml"):
        readers.append(lambda path: documents.records(path, io.StringIO(path.read_text()), suffix))
    faults: list[str] = []
    for content in DAMAGED:
        path = tmp_path / f"file{suffix}"
        path.write_text(content + "\n")
        for reader in readers:
            require_silence(told(partial(reader, path), faults))


ROW = {
    "id": "a", "study": "s", "task": "report", "dataset": "d", "model": "m", "output": "o", "answer": "a", "reference": "r",
    "finish": "stop", "phantom": False, "images": ["a.jpg"], "split": "test", "question": "q", "problem": "<image>q",
}  # fmt: skip
NAMES = [
    *dict.fromkeys(
        [
            *(name for form in forms.FORMS for name in (*form.columns, form.about) if name),
            *(name for names in forms.ABOUT.values() for name in names),
            *(field.name for field in dataclasses.fields(Prediction)),
            *(
                *answers.NAMES,
                *answers.TEXTS,
                "image",
                "history",
                "input",
                "system",
                "references",
                "reward_model",
                SECRET,
            ),
        ]
    )
]
"""Columns that a reader of rows knows, and one that none knows."""


def columns() -> dict[str, Any]:
    """Kind -> a column of a secret."""
    import pyarrow as pa

    damaged = pa.py_buffer(SECRET.encode() + b"\xe9\xff")
    places = pa.py_buffer(struct.pack("<2i", 0, damaged.size))
    return {
        "text": pa.array([SECRET]),
        "bytes": pa.array([SECRET.encode()]),
        "no text": pa.Array.from_buffers(pa.utf8(), 1, [None, places, damaged]),
        "list": pa.array([[SECRET]]),
        "object": pa.array([{SECRET: SECRET}]),
        "map": pa.array([[(SECRET, SECRET)]], pa.map_(pa.string(), pa.string())),
        "shared": pa.array([SECRET]).dictionary_encode(),
        "turns": pa.array([[{"role": SECRET, "content": SECRET, "from": SECRET, "value": SECRET}]]),
        "parts": pa.array([[{"role": "user", "content": [{"type": SECRET, "text": SECRET}]}]]),
        "number": pa.array([1948.0]),
        "nothing": pa.nulls(1),
    }


def test_no_cell_of_a_parquet_file_is_quoted(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    kinds, faults, told_of = columns(), list[str](), Counter[str]()
    base = {name: pa.array([value]) for name, value in ROW.items()}
    files: list[dict[str, Any]] = [dict.fromkeys(NAMES, column) for column in kinds.values()]  # all columns of one kind
    for number, name in enumerate(NAMES):  # each column in turn, of three kinds
        files += [base | {name: list(kinds.values())[(3 * number + turn) % len(kinds)]} for turn in range(3)]
    readers = {
        "rows": lambda path: map(faults.append, unread(path)),
        "answers": lambda path: map(faults.append, refused(path)),
        "predictions": lambda path: predictions.read_parquet(path),
    }
    for number, content in enumerate(files):
        path = tmp_path / f"{number}.parquet"
        parquet.write_table(pa.table(content).replace_schema_metadata({SECRET: SECRET}), path)
        cut = tmp_path / f"{number}-cut.parquet"
        whole = path.read_bytes()
        cut.write_bytes(whole[: len(whole) // 2] + whole[-8:])
        for file in (path, cut) if number < len(kinds) else (path,):
            for name, reader in readers.items():
                before = len("".join(faults))
                require_silence(told(partial(reader, file), faults) + "\n".join(faults))
                told_of[name] += len("".join(faults)) > before
    assert all(told_of[name] > 20 for name in readers), told_of  # they were fed, and refused much


IMAGES = r"""
import sys
from pathlib import Path
from diagcot.data import pixels
from diagcot.data.errors import ImageError
for path in map(Path, sys.argv[1:]):
    for read in (lambda: pixels.convert(path, 64, 90), lambda: pixels.size(path), lambda: pixels.view(path)):
        try:
            read()
        except ImageError as error:
            print(error)
"""
HEADER = (
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PhotometricInterpretation", "PlanarConfiguration", "PixelPaddingValue", "PixelPaddingRangeLimit", "PresentationLUTShape",
    "RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence", "ModalityLUTSequence",
    "SpecificCharacterSet", "ViewPosition", "ViewCodeSequence", "PatientName", "PatientBirthDate", "PatientAge", "StudyDate",
)  # fmt: skip
"""Elements of a DICOM header that the reader or pydicom's functions use, and some that are about a person."""


@pytest.mark.filterwarnings("ignore")  # of writing such files
def test_no_element_of_a_dicom_header_and_no_image_is_quoted(tmp_path: Path) -> None:
    import pydicom
    from pydicom.datadict import dictionary_VR, tag_for_keyword
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    from tests.unit.data.test_pixels import STEPS, dicom, png

    plain = dicom(STEPS, WindowCenter="2000", WindowWidth="1000", RescaleSlope="1", RescaleIntercept="0")
    for name, secret in itertools.product(HEADER, (SECRET, "19480713", "1948.5e1948.")):
        tag = Tag(tag_for_keyword(name) or 0)
        for kind in dict.fromkeys((dictionary_VR(tag).split(" ")[0], "LO")):
            if kind == "SQ":
                continue
            header = pydicom.dcmread(io.BytesIO(plain))
            raw = RawDataElement(tag, kind, len(secret), secret.encode(), 0, False, True)
            header[tag] = raw
            out = io.BytesIO()
            pydicom.dcmwrite(out, header, implicit_vr=False, little_endian=True)
            (tmp_path / f"{name}-{kind}-{len(secret)}.dcm").write_bytes(out.getvalue())
    (tmp_path / "syntax.dcm").write_bytes(plain.replace(b"1.2.840.10008.1.2.1\0", SECRET.encode()[:20]))
    image = png(STEPS)
    (tmp_path / "1.png").write_bytes(image.replace(b"IDAT", b"1948"))  # the kind of a chunk
    (tmp_path / "2.png").write_bytes(image[:8] + SECRET.encode())
    (tmp_path / "3.png").write_bytes(SECRET.encode())
    (tmp_path / "4.jpg").write_bytes(b"\xff\xd8\xff" + SECRET.encode())
    command = [sys.executable, "-c", IMAGES, *map(str, sorted(tmp_path.iterdir()))]
    done = subprocess.run(command, cwd=chains.ROOT, capture_output=True, text=True, check=True)
    require_silence(done.stdout + done.stderr)
    assert done.stderr == ""
    for name in (
        "Rows",
        "NumberOfFrames",
        "PixelRepresentation",
        "PixelPaddingValue",
        "PhotometricInterpretation",
        "WindowWidth",
    ):
        assert f"the DICOM element {name} cannot be used" in done.stdout, name
    assert done.stdout.count("1.png") == done.stdout.count("4.jpg") == 2


def test_every_reader_is_fed_secrets() -> None:
    """What reads data of others: the readers of the registry, all of whose tables are fed above, and the forms of rows."""
    assert {entry.reader for entry in entries()} == {"table", "mimic_cxr", "iu_xray"}
    assert {name for name, *_ in TABLES} == {entry.name for entry in entries() if entry.tables}
    assert {name for form in forms.FORMS for name in form.columns} <= set(NAMES)
