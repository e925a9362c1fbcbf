"""Files that are small and unpack to gigabytes: each reader refuses them in bounded memory and time."""

import gzip
import io
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import chains

MOST_MB, MOST_S = 600, 60
CHILD = r"""
import re, resource, sys
from pathlib import Path
from diagcot.jobs.state import json_text
from diagcot.data.errors import DataError, ImageError
from diagcot.data import dicom, pixels
from diagcot.data.readers import archive, iu_xray, tables
from diagcot.data.reports import sections
from diagcot.exchange import answers, tables as files_of_rows
from diagcot.jobs.state import reading
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
iu_xray.MOST_UNPACKED = dicom._MOST_UNPACKED = tables._PLENTY = 64 << 20  # smaller, so that the test is quick
json_text.JSON_PLENTY = 256 << 20
path, COLUMN = Path(sys.argv[2]), ["image" + "x" * 8186]
try:
    {"iu": lambda: iu_xray.IuXray(path.parent).patients(), "zip": lambda: archive.ReportZip(path).read(5),
     "table": lambda: sum(1 for _ in tables.rows(path, COLUMN)),
     "rows": lambda: sum(1 for _ in files_of_rows.rows(path)), "answers": lambda: sum(1 for _ in answers.read(path, {})),
     "r2gen": lambda: iu_xray.r2gen_records(path), "corrections": lambda: sections.read_overrides(path),
     "image": lambda: pixels.convert(path, 512, 90)}[sys.argv[1]]()
except (DataError, ImageError) as error:
    # Not getrusage's, which counts the process that this one was forked from.
    print(int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1024, error)
"""


def packed(mb: int, head: bytes = b"", form: int = 31, filler: bytes = b"\0") -> bytes:
    """`head` and a thousandfold of little: `mb` megabytes deflated."""
    out, block = zlib.compressobj(9, wbits=form), filler * ((1 << 20) // len(filler))
    start = out.compress(head + block) + out.flush(zlib.Z_FULL_FLUSH)
    return start + mb * (out.compress(block) + out.flush(zlib.Z_FULL_FLUSH))  # each like the first


def tar(path: Path) -> None:
    head = tarfile.TarInfo("ecgen-radiology/1.xml")
    head.size = 390 << 20
    path.write_bytes(packed(400, head.tobuf()))


def member(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out, out.open("files/s5.txt", "w") as file:
        for _ in range(20):
            file.write(bytes(1 << 20))


def deflated_dicom(path: Path) -> None:
    element = b"\x02\x00\x10\x00UI\x16\x001.2.840.10008.1.2.1.99"
    meta = b"\x02\x00\x00\x00UL\x04\x00" + len(element).to_bytes(4, "little") + element
    path.write_bytes(bytes(128) + b"DICM" + meta + packed(400, form=-15))


def png(path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = (12_000).to_bytes(4, "big") + (11_000).to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed(10, form=15)) + chunk(b"IEND", b"")
    )


def text(filler: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(packed(400, filler=filler))


def records(head: bytes, filler: bytes, tail: bytes) -> Callable[[Path], object]:
    """A whole document of 20 MB, which the limit on what is unpacked allows, of many small records; packed by its name."""

    def write(path: Path) -> None:
        whole = head + filler * ((20 << 20) // len(filler)) + tail
        path.write_bytes(gzip.compress(whole, 1) if path.suffix == ".gz" else whole)

    return write


@pytest.mark.parametrize(
    ("reader", "name", "make", "said"),
    [
        ("iu", "NLMCXR_reports.tgz", tar, "unpacks to over 64 MB"),
        ("zip", "reports.zip", member, "s5.txt is damaged (it unpacks to over 4 MB)"),
        ("table", "a.csv.gz", text(b"x"), "a line of over 16 MB"),
        ("table", "b.csv.gz", text(b"image" + b"x" * 8186 + b"\n"), "unpacks to over 100 times its size"),
        ("table", "c.json.gz", text(b"[{},"), "unpacks to over 100 times its size"),
        ("table", "d.xml.gz", text(b"<a>"), "unpacks to over 100 times its size"),
        ("table", "j.json.gz", records(b"[", b"{},", b"{}]"), "its records would take over 256 MB"),
        ("table", "k.json.gz", records(b'{"a": [', b"[],", b"[]]}"), "its records would take over 256 MB"),
        ("table", "l.jsonl.gz", records(b'{"a": [', b"{},", b"{}]}"), "its records would take over 256 MB"),
        ("table", "m.xml.gz", records(b"<a>", b"<b/>", b"</a>"), "its records would take over 256 MB"),
        ("table", "n.json", records(b"[", b"{},", b"{}]"), "its records would take over 320 MB"),
        ("table", "o.json", records(b'{"a": [', b"[],", b"[]]}"), "its records would take over 320 MB"),
        ("table", "p.json", records(b'{"a": {"b": [', b"{},", b"{}]}}"), "its records would take over 320 MB"),
        ("table", "q.jsonl", records(b'{"a": [', b"{},", b"{}]}"), "its records would take over 320 MB"),
        ("table", "r.xml", records(b"<a>", b"<b/>", b"</a>"), "its records would take over 320 MB"),
        ("rows", "s.json", records(b"[", b"{},", b"{}]"), "its values would take over 320 MB"),
        ("rows", "t.json", records(b'{"a": [', b"{},", b"{}]}"), "its values would take over 320 MB"),
        ("answers", "u.json", records(b'{"a": {"b": [', b"{},", b"{}]}}"), "its values would take over 320 MB"),
        ("r2gen", "v.json", records(b'{"train": [', b"{},", b"{}]}"), "its values would take over 320 MB"),
        ("corrections", "w.json", records(b'{"s1": [', b"{},", b"{}]}"), "its values would take over 320 MB"),
        ("image", "e.dcm", deflated_dicom, "unpacks to over 64 MB"),
        ("image", "f.png", png, "which no X-ray image has"),
        ("table", "g.json", lambda path: path.write_bytes(b"[" * 200_000), "is not JSON"),
        ("table", "h.jsonl", lambda path: path.write_bytes(b"[" * 200_000), "is not JSON"),
        ("table", "i.xml", lambda path: path.write_bytes(b"<a>" * 50_000 + b"</a>" * 50_000), "is not XML"),
    ],
)
def test_a_bomb_is_refused_in_bounded_memory(
    tmp_path: Path, reader: str, name: str, make: Callable[[Path], object], said: str
) -> None:
    make(tmp_path / name)
    command = [sys.executable, "-c", CHILD, reader, str(tmp_path / name)]
    done = subprocess.run(command, cwd=chains.ROOT, capture_output=True, text=True, timeout=MOST_S * 3, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    memory, _, told = done.stdout.partition(" ")
    assert said in told and int(memory) < MOST_MB


PARQUET = r"""
import re, resource, sys
from pathlib import Path
from diagcot.data import parquet
from diagcot.data.errors import DataError
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
parquet.PLENTY = 64 << 20  # smaller, so that the test is quick
for path in sys.argv[1:]:
    try:
        print(sum(1 for _ in parquet.rows(Path(path))), "rows")
    except DataError as error:
        print(error)
print(int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""


def test_rows_of_parquet_that_unpack_to_gigabytes_are_refused_in_bounded_memory(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    def stored(name: str, column: Any, **options: Any) -> None:
        parquet.write_table(pa.table({"a": column}), tmp_path / name, compression="zstd", **options)

    many = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), 4000), pa.array(["x" * (1 << 20)]))
    stored("1-column.parquet", pa.repeat(0, 10_000_000), use_dictionary=False)
    stored("2-shared.parquet", many, dictionary_pagesize_limit=1 << 30, store_schema=False)
    stored("3-shared.parquet", many, dictionary_pagesize_limit=1 << 30)
    stored("4-rows.parquet", pa.nulls(9_000_000))
    stored("5-whole.parquet", pa.array(range(200_000)))
    (tmp_path / "6-cut.parquet").write_bytes((tmp_path / "5-whole.parquet").read_bytes()[:-100])
    files = sorted(tmp_path.iterdir())
    assert all(path.stat().st_size < 1 << 20 for path in files if path.name != "5-whole.parquet")
    command = [sys.executable, "-c", PARQUET, *map(str, files)]
    done = subprocess.run(command, cwd=chains.ROOT, capture_output=True, text=True, timeout=MOST_S * 3, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    *told, memory = done.stdout.splitlines()
    for path, line in zip(files[:4], told[:4], strict=True):
        assert line.startswith(f"{path}: its rows have over 64 MB") and line.endswith("in several files")
    assert told[4] == "200000 rows" and told[5].startswith(f"{files[5]} is no whole Parquet file")
    assert int(memory) < MOST_MB


def test_what_is_unpacked_is_whole() -> None:
    from diagcot.data.readers.archive import inflate

    whole = gzip.compress(b"a" * 5000) + gzip.compress(b"b")
    assert inflate(whole, 5001) == b"a" * 5000 + b"b" == gzip.GzipFile(fileobj=io.BytesIO(whole)).read()
    for data, most, why in ((whole, 5000, "over"), (whole[:-9], 9999, "incomplete")):
        with pytest.raises(ValueError, match=why):
            inflate(data, most)


@pytest.mark.parametrize("name", ["/etc/passwd", "../../secret.jpg", "a/../../b.jpg", ".", ""])
def test_no_name_of_an_image_leads_out_of_its_collection(tmp_path: Path, name: str) -> None:
    from diagcot.data.readers.collection import _inside

    assert _inside(tmp_path, name) == tmp_path / "outside-of-the-collection"
    assert _inside(tmp_path, "a/../p10/s5.jpg") == tmp_path / "a/../p10/s5.jpg"
