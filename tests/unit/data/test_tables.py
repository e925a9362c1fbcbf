"""What spreadsheets, editors and downloads do to tables: undone where nothing is lost, else told by file and line."""

import csv
import gzip
import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagcot.data.errors import DataError
from diagcot.data.readers import layouts, registry
from diagcot.data.readers.collection import TableCollection
from diagcot.data.readers.iu_xray import IuXray
from diagcot.data.readers.tables import identifier, rows

COLUMNS = ("id", "text")


def table(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(path: Path, **options: object) -> list[tuple[str, ...]]:
    return [row for _, row in rows(path, COLUMNS, **options)]  # type: ignore[arg-type]


WHOLE = [("1", "a, b"), ("2", "c")]


@pytest.mark.parametrize(
    "raw",
    [
        b'id,text\n1,"a, b"\n2,c\n',
        b'\xef\xbb\xbfid,text\n1,"a, b"\n2,c',
        b'id,text\r\n1,"a, b"\r\n\r\n2,c\r\n',
        b'id,text\r1,"a, b"\r2,c\r',
        b"id;text\n1;a, b\n2;c\n",
        b"id\ttext\n1\ta, b\n2\tc\n",
        'id\ttext\r\n1\t"a, b"\r\n2\tc\r\n'.encode("utf-16"),
        b'text,other,id\n"a, b",x,1\nc,,2\n',
        b'id,text,,\n1,"a, b",,\n2,c\n',
    ],
    ids=["plain", "bom", "windows", "old-mac", "semicolons", "tabs", "utf-16", "order", "blank-columns"],
)
def test_harmless_forms_are_read_alike(raw: bytes, tmp_path: Path) -> None:
    plain = table(tmp_path / "t.csv", raw)
    zipped = tmp_path / "u.csv.gz"
    zipped.write_bytes(gzip.compress(raw))
    assert read(plain) == read(zipped) == WHOLE


@given(st.lists(st.tuples(st.text("ab, ;\"'\t\n", max_size=8), st.text('xyzé€\n\r"', max_size=8)), max_size=6))
def test_any_quoted_text_comes_back(tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.mktemp("q") / "t.csv"
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, quoting=csv.QUOTE_ALL)
        writer.writerows([COLUMNS, *cells])
    assert read(path) == [(a.strip(), b.strip()) for a, b in cells if a or b]


def test_lines_are_those_of_the_file_after_quoted_newlines(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", 'id,text\n1,"two\nlines"\n2,x\n')
    assert [(line, row[0]) for line, row in rows(path, COLUMNS)] == [(2, "1"), (4, "2")]


def test_a_long_report_is_read_whole(tmp_path: Path) -> None:
    long = "x" * 1_000_000  # the csv module's own limit is 131,072
    assert read(table(tmp_path / "t.csv", f"id,text\n1,{long}\n")) == [("1", long)]


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"idd,text\n1,x\n", r"t\.csv has no columns id; did you mean 'idd'"),
        (b"", r"has no columns id, text"),
        (b"id,text\n1,x\n2,caf\xe9\n", r"t\.csv:3 is not utf-8 text; .*iconv"),
        (b'id,text\n1,x\n2,"never closed\n3,y\n', r"t\.csv:3: .*quote that is not closed"),
        (b'id,text\n1,x\n2,"' + b"y" * (17 << 20), r"t\.csv:3: .*quote that is not closed"),
        (b"id,text\n1,x\n2\n", r"t\.csv:3: 1 fields where the header has 2"),
        (b"id,text\n1,a, b\n", r"t\.csv:2: 3 fields where the header has 2"),
    ],
    ids=["columns", "empty", "latin-1", "quote", "huge", "short", "long"],
)
def test_damage_is_reported_by_file_and_line(raw: bytes, told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=told):
        read(table(tmp_path / "t.csv", raw))


def test_another_encoding_can_be_named(tmp_path: Path) -> None:
    assert read(table(tmp_path / "t.csv", b"id,text\n2,caf\xe9\n"), encoding="latin-1") == [("2", "café")]


def test_a_torn_download_is_reported_with_the_line_it_reached(tmp_path: Path) -> None:
    whole = gzip.compress("".join(["id,text\n", *(f"{n},{os.urandom(8).hex()}\n" for n in range(20_000))]).encode())
    path = table(tmp_path / "t.csv.gz", whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"t\.csv\.gz is incomplete after line \d{4,}: download it again"):
        read(path)
    table(path, b"<html>404</html>")
    with pytest.raises(DataError, match=r"cannot be read .*download it again"):
        read(path)
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path)  # a folder where a table should be


@pytest.mark.parametrize("value", ["8.4E+35", "1.23e+08", "8,4E+35", "Mar-01", "1-Sep", "3/1/2021", "01-Mar-21"])
def test_names_that_a_spreadsheet_rewrote_are_told(value: str) -> None:
    with pytest.raises(DataError, match=r"t\.csv:7: StudyID is .*spreadsheet program.*download the table again"):
        identifier(value, "t.csv:7", "StudyID")


@pytest.mark.parametrize(
    "value", ["50414267", "00000001_000.png", "12e45", "a1b2c3", "CXR1_IM-0001", "2021-03-01", "5-1-12"]
)
def test_other_names_are_left_alone(value: str) -> None:
    assert identifier(value, "t.csv:7", "StudyID") == value


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("t.jsonl", '{"id": 1, "text": "a"}\n{"id": 2\n', r"t\.jsonl:2 is not JSON"),
        ("t.jsonl", '{"id": 1, "text": "a"}\n[1]\n', r"t\.jsonl:2 is not a JSON object"),
        ("t.jsonl", '{"id": 1, "txt": "a"}\n', r"t\.jsonl:1 has no columns text; did you mean 'txt'"),
        ("t.json", "[1, 2]", "neither a list of records nor COCO"),
        ("t.json", "{", "is not JSON"),
        ("t.csv", "id,text,Text,text\n1,a,b,c\n", "names the column text twice"),
        ("t.jsonl", '{"id": 1, "text": "a", "text": "b"}\n', r"t\.jsonl:1 is not JSON \(a key stands twice"),
        ("t.json", '[{"id": 1, "text": "a", "text": "b"}]', "a key stands twice"),
        (
            "t.json",
            '{"x": {"id": 1, "text": "a", "text": "b"}, "y": {}}',
            "is not JSON .a key stands twice",
        ),
        ("t.json", '{"images": [], "annotations": [{"image_id": 1}]}', "1 annotated images are not in its list"),
    ],
)
def test_damaged_tables_are_reported(name: str, text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=told):
        read(table(tmp_path / name, text))


IU = "uid,MeSH,Problems,image,indication,comparison,findings,impression\n"
NIH = "Image Index,Finding Labels,Follow-up #,Patient ID,View Position\n"
ROWS = [f"0000000{n}_000.png,No Finding,0,{n},PA" for n in range(1, 7)]


def nih(root: Path, *lines: str, boxes: str = "", **options: str) -> TableCollection:
    table(root / "Data_Entry_2017.csv", NIH + "\n".join(lines) + "\n")
    (root / "images").mkdir(exist_ok=True)
    if boxes:
        table(root / "BBox_List_2017.csv", "Image Index,Finding Label,Bbox [x,y,w,h],,,\n" + boxes)
    reader = TableCollection(registry.find("nih_cxr14"), root, **options)  # type: ignore[arg-type]
    reader.patients()
    return reader


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (ROWS[0], "a second row of an image; the first one is used"),
        ("284_0.png,No Finding,0,7,PA", "Image Index is a text of 9 characters, not of the form"),
        (",No Finding,0,7,PA", "the row names no image"),
        ("00000007_000.png,No Finding,0,7,PA,x", "6 fields where the header has 5"),
    ],
)
def test_a_bad_row_is_noted_and_left_out_or_fatal(row: str, told: str, tmp_path: Path) -> None:
    reader = nih(tmp_path, *ROWS, row)
    assert len(reader.patients()) == 6
    ((where, what),) = reader.bad
    assert where.endswith("Data_Entry_2017.csv:8") and told in what
    with pytest.raises(DataError, match=r"Data_Entry_2017\.csv:8: "):
        nih(tmp_path, *ROWS, row, on_bad_row="fail")


@pytest.mark.parametrize("box", ["a,1,2,3", "10,10,0,5", "10,10,-4,5", "nan,1,2,3"])
def test_a_bad_box_is_noted(box: str, tmp_path: Path) -> None:
    reader = nih(tmp_path, *ROWS, boxes=f"00000001_000.png,Mass,{box},,,\n00000001_000.png,Mass,1,1,2,3,,,\n")
    ((where, _),) = reader.bad
    assert where.endswith("BBox_List_2017.csv:2")
    (study,) = reader.studies("1")
    assert len(study.images[0].boxes) == 1


def test_a_box_beyond_its_image_is_noted(tmp_path: Path) -> None:
    reader = nih(
        tmp_path, *ROWS, boxes="00000001_000.png,Mass,2000,2000,20,30,,,\n00000001_000.png,Mass,1000,0,100,9,,,\n"
    )
    (study,) = reader.studies("1")
    assert [box.x2 for box in study.images[0].boxes] == [1.0]  # the second is cut at the edge
    assert [what for _, what in reader.bad_boxes] == [
        "a box lies outside its image; are the sizes those of this edition?"
    ]


def test_a_table_of_nothing_but_bad_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"3 of 4 rows cannot be used; the first is .*\.csv:2: Image Index is a text of 5 characters"
    ):
        nih(tmp_path, "1.png,,0,1,PA", "2.png,,0,2,PA", "3.png,,0,3,PA", ROWS[0])
    with pytest.raises(DataError, match="names an image"):
        nih(tmp_path)
    with pytest.raises(DataError, match=r"\.csv:2: Patient ID is a rounded number.*spreadsheet"):
        nih(tmp_path, ROWS[0].replace(",1,", ",1.2E+08,"))


def test_links_that_form_a_loop_end_and_linked_folders_are_read(tmp_path: Path) -> None:
    images = tmp_path / "images"
    (images / "a").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "CXR1_IM-1.png").touch()
    (images / "a" / "up").symlink_to(images)
    (images / "b").symlink_to(tmp_path / "elsewhere")
    (images / "self").symlink_to("self")
    names = [path.name for path in layouts.files(images)]
    assert names.count("CXR1_IM-1.png") == 1 and "self" in names


def test_readers_leave_a_read_only_folder_as_it_is(tmp_path: Path) -> None:
    root = tmp_path / "iu"
    root.mkdir()
    table(
        root / "indiana_reports.csv",
        "uid,MeSH,Problems,image,indication,comparison,findings,impression\n1,normal,,,,,Clear.,Ok.\n",
    )
    table(root / "indiana_projections.csv", "uid,filename,projection\n1,1_IM-0001-4001.dcm.png,Frontal\n")
    nih_root = tmp_path / "nih"
    nih_root.mkdir()
    nih(nih_root, *ROWS)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for path in before:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert len(list(IuXray(root).studies("CXR1"))) == 1
        assert len(TableCollection(registry.find("nih_cxr14"), nih_root).patients()) == 6
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    finally:
        for path in before:
            path.chmod(0o755)
        shutil.rmtree(root)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ('{"a": {"x": 1}, "b": {"x": 2}}', [(1, ("1", "a")), (2, ("2", "b"))]),
        ('{"a": {"x": 1}}', [(1, ("1", "a"))]),
        ('{\n "p/1.txt": {"x": "y"},\n "q\\"": {"x": [1]}\n}\n', [(1, ("y", "p/1.txt")), (2, ("[1]", 'q"'))]),
        ('{"about": {"n": 1}, "x": 3}', [(1, ("3", ""))]),  # one record, whose first field is an object
        ('{"about": {"n": 1}, "x": 3}\n{"about": {"n": 2}, "x": 4}\n', [(1, ("3", "")), (2, ("4", ""))]),  # JSON lines
        ("{}", []),
    ],
)  # fmt: skip
def test_objects_of_objects_are_told_from_records(
    tmp_path: Path, content: str, found: list[tuple[int, tuple[str, ...]]]
) -> None:
    (tmp_path / "x.json").write_text(content)
    assert list(rows(tmp_path / "x.json", ["x"], ["key"])) == found


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("x.json", '{"a": {"x": 1}, "b": {"x": 2}, "c": {"x"', "x.json: its record 3 is damaged"),
        (
            "x.json",
            '{"a": {"x": 1}, "b": {"x": 2}, "c": 7}',
            "x.json: its record 3 is no object, or the file ends in it",
        ),
        ("x.json", '{"a": {"x": 1}, "b": {"x": 2}', "x.json: its record 2 is no object, or the file ends in it"),
        ("x.xml", "<annotation><x>1</x>", "x.xml is not XML"),
    ],
)
def test_damaged_documents_are_named(tmp_path: Path, name: str, content: str, what: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=what):
        list(rows(tmp_path / name, ["x"], ["key"]))


def test_lists_that_are_not_there_are_blank_and_objects_are_listed(tmp_path: Path) -> None:
    record = {"a": [1, 2], "b": None, "c": {"p": {"n": 3}, "q": {"n": 4}}}
    (tmp_path / "x.json").write_text(json.dumps([record]))
    found = list(rows(tmp_path / "x.json", ["a", "b", "c.n"], explode=["a", "b", "c"]))
    assert found == [(1, ("1", "", "3")), (1, ("2", "", "4"))]
    (tmp_path / "x.json").write_text(json.dumps([{**record, "b": [1, 2, 3]}]))
    with pytest.raises(DataError, match="have different lengths"):
        list(rows(tmp_path / "x.json", ["a", "b", "c.n"], explode=["a", "b", "c"]))


def test_a_cell_nested_just_below_the_limit_is_read_or_named(tmp_path: Path) -> None:
    path, named = tmp_path / "x.json", 0
    for depth in range(600, 1000, 2):
        path.write_text('[{"image": ' + '{"a": ' * depth + "1" + "}" * depth + "}]")
        try:
            assert len(list(rows(path, ["image"]))) == 1
        except DataError as error:
            named += "x.json" in str(error)
    assert named
