"""Shards whose checksums are right and whose contents are not those of a shard: every verb refuses them with a sentence."""

import io
import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from isal.isal_zlib import crc32
from PIL import Image as Pillow

from diagcot.cli import main as cli
from diagcot.data.errors import DataError
from diagcot.data.phantom.drawing import draw
from diagcot.data.phantom.findings import Effusion, Findings
from diagcot.data.pixels import Jpeg
from diagcot.data.study import SPLITS, Image, Question, Study
from diagcot.shards import Shard
from diagcot.shards.audit.accounting import Account
from diagcot.shards.format import hdf5
from diagcot.shards.writer import ShardWriter
from diagcot.tasks.languages import other_languages
from diagcot.tasks.samples import ImageRef

VERBS = ("verify", "info", "show")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard that has rows in every column."""
    path = tmp_path_factory.mktemp("whole") / "00000.h5"
    account = Account()
    with ShardWriter(path, part=0, image_size=32, sources=[{"dataset": "phantom"}]) as writer:
        for number in range(3):
            drawn = draw(str(number), Findings(effusions=(Effusion("left", "large"),)), "PA", 32)
            boxes = tuple(replace(box, phrase="left effusion") for box in drawn.boxes)
            study = Study(
                "phantom", f"s{number}", f"p{number}", SPLITS[number], "Findings.", "Impression.", "Cough.", "None.", ("a", "b"),
                {"Edema": 1}, (Image(f"i{number}", "PA", 32, 32, boxes, True, "other/1"),), "1",
                (Question("Is there edema?", ("Yes",), ("Yes", "No"), f"i{number}", "s0", "It is seen."),), "61", "female",
            )  # fmt: skip
            account.read_study(study)
            account.put(study)
            account.settle_questions(study.key, 1, ())
            writer.add(study, [Jpeg(drawn.jpeg(), 32, 32, True)])
        writer.leave_out("phantom/s9", "i9", "it is torn")
        account.leave_out("rows", "it is torn", "a.csv:3")
        writer.describe(accounts={"phantom": account.counts})
    return path


def columns(path: Path, texts: str = "") -> list[str]:
    """The names of the data sets of the shard. texts: of one text column, if not those of all."""
    found: list[str] = []
    with h5py.File(path, locking=False) as file:
        file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    assert len(found) > 60
    return [name for name in found if name.count("/") == 1 or name.startswith(texts)]


def put(file: h5py.File, name: str, values: Any, **options: Any) -> None:
    """Other values in a column, with their checksum."""
    values, attributes = np.asarray(values), dict(file[name].attrs)
    del file[name]
    made = file.create_dataset(name, data=values, **options)
    for attribute, value in attributes.items():
        made.attrs[attribute] = value
    if "crc32" in attributes and values.dtype.kind in "iufb":
        made.attrs["crc32"] = np.uint32(crc32(np.ascontiguousarray(values).tobytes()))


def linked(file: h5py.File, name: str, link: Any) -> None:
    values = file[name][()]
    file["elsewhere"] = values
    file["elsewhere"].attrs["crc32"] = np.uint32(crc32(values.tobytes()))
    del file[name]
    file[name] = link


def elsewhere(file: h5py.File, name: str) -> None:
    values = file[name][()]
    raw = Path(file.filename).with_suffix(".raw")
    raw.write_bytes(values.tobytes())
    del file[name]
    made = file.create_dataset(name, values.shape, values.dtype, external=[(str(raw), 0, max(values.nbytes, 1))])
    made.attrs["crc32"] = np.uint32(crc32(values.tobytes()))


def virtual(file: h5py.File, name: str) -> None:
    values = file[name][()]
    layout = h5py.VirtualLayout(values.shape, values.dtype)
    layout[:] = h5py.VirtualSource(file.filename, "elsewhere", values.shape, values.dtype)
    file["elsewhere"] = values
    del file[name]
    file.create_virtual_dataset(name, layout).attrs["crc32"] = np.uint32(crc32(values.tobytes()))


def group(file: h5py.File, name: str) -> None:
    del file[name]
    file.create_group(name)


def floats(file: h5py.File, name: str) -> None:
    values = np.asarray(file[name][()], np.float32)
    values.flat[values.size // 2] = np.nan
    put(file, name, values)


def checksum(value: Any) -> Callable[[h5py.File, str], None]:
    def change(file: h5py.File, name: str) -> None:
        if name == "images/jpeg":  # has none
            return group(file, name)
        del file[name].attrs["crc32"]
        if value is not None:
            file[name].attrs["crc32"] = value
        return None

    return change


Change = Callable[[h5py.File, str], Any]


def on(change: Change, name: str) -> Callable[[h5py.File], Any]:
    return lambda file: change(file, name)


STRUCTURE: dict[str, Change] = {
    "absent": lambda file, name: file.__delitem__(name),
    "a group": group,
    "float with NaN": floats,
    "float of another byte order": lambda file, name: put(file, name, np.asarray(file[name][()], ">f8")),
    "integers of another size": lambda file, name: put(file, name, np.asarray(file[name][()], np.int16)),
    "texts": lambda file, name: put(file, name, np.array([b"abc"] * 4)),
    "a dimension more": lambda file, name: put(file, name, file[name][()][..., None]),
    "one number": lambda file, name: put(file, name, file[name][()].ravel()[0]),
    "no values of many rows": lambda file, name: put(file, name, np.zeros((1 << 40, 0), file[name].dtype)),
    "chunks": lambda file, name: put(file, name, file[name][()], chunks=True),
    "packed": lambda file, name: put(file, name, file[name][()], compression="gzip"),
    "in another file": elsewhere,
    "virtual": virtual,
    "a soft link": lambda file, name: linked(file, name, h5py.SoftLink("/elsewhere")),
    "a soft link to itself": lambda file, name: linked(file, name, h5py.SoftLink(f"/{name}")),
    "an external link": lambda file, name: linked(file, name, h5py.ExternalLink(file.filename, "elsewhere")),
    "no checksum": checksum(None),
    "an endless checksum": checksum(np.inf),
    "a checksum of many": checksum(np.arange(9)),
    "a text as checksum": checksum("1"),
}
FOR_ALL = ("absent", "float with NaN")
"""What is done to every text column; the others have one reader, so the rest is done to one of them."""


class Tried:
    """A copy of the shard that is changed, and what the verbs make of it."""

    def __init__(self, whole: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.whole, self.path, self.capsys = whole, folder / "00000.h5", capsys

    def changed(self, change: Callable[[h5py.File], Any]) -> Path:
        shutil.copyfile(self.whole, self.path)
        with h5py.File(self.path, "r+", locking=False) as file:
            change(file)
        return self.path

    def wrong(self, change: Callable[[h5py.File], Any], part: str, refuse: tuple[str, ...] = VERBS) -> list[str]:
        """What the verbs do otherwise than they should.

        Those of `refuse`, verify among them, name file and part; each other one does, too, or shows the shard. None raises.
        """
        self.changed(change)
        found = []
        for verb in VERBS:
            options = ["--out", str(self.path.with_suffix(".png"))] if verb == "show" else []
            try:
                code = cli.main(["shards", verb, str(self.path), *options])
            except Exception as error:
                found.append(f"{verb}: {error!r:.90}")
                continue
            said = "".join(self.capsys.readouterr())
            if code not in (0, 1) or (code == 0 and verb in refuse):
                found.append(f"{verb}: {code} {said[:150]}")
            elif code == 1 and not (str(self.path) in said and part in said and "diagcot shards rebuild" in said):
                found.append(f"{verb}: does not say what: {said[:150]}")
        return found


@pytest.fixture
def tried(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Tried:
    return Tried(whole, tmp_path, capsys)


def test_a_whole_shard_is_intact(whole: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for verb, options in zip(VERBS, ([], [], ["--out", str(tmp_path / "x.png")]), strict=True):
        assert cli.main(["shards", verb, str(whole), *options]) == 0, capsys.readouterr()
    assert "intact, 3 studies, 3 images" in capsys.readouterr().out


@pytest.mark.parametrize("kind", STRUCTURE)
def test_a_column_that_the_layout_does_not_allow_is_refused_by_name(tried: Tried, kind: str) -> None:
    change = STRUCTURE[kind]
    names = columns(tried.whole, "" if kind in FOR_ALL else "boxes/phrase/")
    wrong = {name: tried.wrong(on(change, name), name) for name in names}
    assert {name: found for name, found in wrong.items() if found} == {}


@pytest.mark.parametrize("more", [False, True], ids=["fewer rows", "more rows"])
def test_rows_that_do_not_fit_are_refused(tried: Tried, more: bool) -> None:
    def change(file: h5py.File, name: str) -> None:
        values = file[name][()]
        put(file, name, np.concatenate([values, values[-1:]]) if more else values[:-1])

    wrong = {
        name: tried.wrong(on(change, name), f"the column {name.split('/')[0]}/", ("verify",))
        for name in columns(tried.whole, "studies/tags/")
    }
    assert {name: found for name, found in wrong.items() if found} == {}


def test_a_text_that_is_no_utf_8_is_refused_by_column_and_row(tried: Tried) -> None:
    def change(file: h5py.File, name: str) -> None:
        ends = file[f"{name}/offset"][()].copy()
        data = file[f"{name}/text"][()].tobytes()
        put(file, f"{name}/text", np.frombuffer(data[: ends[-2]] + b"\xed\xa0", np.uint8))
        put(file, f"{name}/offset", np.array([*ends[:-1], ends[-2] + 2], ends.dtype))

    names = [
        name.removesuffix("/text") for name in columns(tried.whole) if name.endswith("/text") and name.count("/") == 2
    ]
    assert len(names) > 20
    wrong = {n: tried.wrong(on(change, n), f"the column {n} ", ("verify",)) for n in names}
    assert {name: found for name, found in wrong.items() if found} == {}


VALUES: dict[str, tuple[str, Any]] = {
    "a place before": ("images/offset", lambda a: np.where(np.arange(len(a)) == 1, -5, a)),
    "places that fall": ("images/offset", lambda a: a[::-1]),
    "a first image that is not there": ("studies/first", lambda a: np.where(np.arange(len(a)) == 1, 9999, a)),
    "studies of images": ("images/study", lambda a: a[::-1]),
    "a study that is not there": ("images/study", lambda a: a + 99),
    "labels": ("studies/labels", lambda a: np.full_like(a, 77)),
    "a phantom of 7": ("images/phantom", lambda a: np.full(len(a), 7, np.uint8).view(np.bool_)),
    "another size": ("images/width", lambda a: a + 1),
    "boxes of no image": ("boxes/image", lambda a: a + 99999),
    "boxes of an image before": ("boxes/image", lambda a: a - 5),
    "corners that are no number": ("boxes/corners", lambda a: np.full_like(a, np.nan)),
    "one corner that is no number": ("boxes/corners", lambda a: np.where(np.arange(a.size).reshape(a.shape) == 2, np.nan, a)),
    "corners without end": ("boxes/corners", lambda a: np.full_like(a, np.inf)),
    "corners in a wrong order": ("boxes/corners", lambda a: a[:, ::-1]),
    "questions of no study": ("questions/study", lambda a: a + 999),
}  # fmt: skip


@pytest.mark.parametrize("kind", VALUES)
def test_a_value_out_of_range_is_refused(tried: Tried, kind: str) -> None:
    name, make = VALUES[kind]

    def change(file: h5py.File) -> None:
        put(file, name, make(file[name][()]).astype(file[name].dtype, copy=False))

    part = "the image in row 0" if name == "images/width" else f"the column {name} "
    assert tried.wrong(change, part, ("verify",)) == []


def test_a_split_that_is_none_is_refused(tried: Tried) -> None:
    def change(file: h5py.File) -> None:
        put(file, "studies/split/text", np.frombuffer(b"nonsense", np.uint8))
        put(file, "studies/split/offset", np.array([0, 0, 8, 8], np.uint32))

    assert tried.wrong(change, "the column studies/split names no split in row 0", ("verify",)) == []


@pytest.mark.parametrize(
    "value",
    [np.arange(3), 1.5, b"\xff\xfe", np.array(b"\xed\xa0\x80", h5py.string_dtype()), h5py.Empty("i8"), [b"a", b"b"]],
    ids=str,
)
def test_an_attribute_of_another_type_is_refused(tried: Tried, value: Any) -> None:
    def change(file: h5py.File, name: str) -> None:
        file.attrs[name] = value

    with h5py.File(tried.whole, locking=False) as file:
        names = list(file.attrs)
    wrong = {name: tried.wrong(on(change, name), f"attribute {name}") for name in names}
    wrong["names"] = tried.wrong(
        lambda file: file["studies/labels"].attrs.__setitem__("names", value), "studies/labels"
    )
    wrong["code"] += tried.wrong(lambda file: file.attrs.__delitem__("code"), "attribute code")
    assert {name: found for name, found in wrong.items() if found} == {}


DEEP = "[" * 60_000
ACCOUNTS = [
    DEEP, "[1]", "no JSON", '{"phantom": {"read": 5}}', '{"phantom": 1}', '{"phantom": {"in_shards": {"images": "many"}}}',
    '{"phantom": {"in_shards": {}, "lost": {"images": 3}}}', '{"phantom": {"in_shards": {}, "examples": {"a": [[]]}}}',
]  # fmt: skip
SOURCES = [DEEP, "{}", "no JSON", '["a"]', "[{}]", '[{"dataset": 1}]', '[{"dataset": "a", "entry": {"language": 1}}]']


@pytest.mark.parametrize("text", ACCOUNTS, ids=lambda text: text[:40])
def test_accounts_of_another_form_are_refused(tried: Tried, text: str) -> None:
    change = lambda file: file.attrs.__setitem__("accounts", text)  # noqa: E731
    assert tried.wrong(change, "the attribute accounts ", ("verify", "info")) == []


@pytest.mark.parametrize("text", SOURCES, ids=lambda text: text[:40])
def test_sources_of_another_form_are_refused(tried: Tried, text: str) -> None:
    change = lambda file: file.attrs.__setitem__("sources", text)  # noqa: E731
    assert tried.wrong(change, "the attribute sources ", ("verify",)) == []
    with pytest.raises(DataError, match="the attribute sources "):
        other_languages(Shard(tried.path))


@pytest.mark.parametrize("text", [DEEP, '{"a": 1}', "5", json.dumps(["\x1b[31mX"] * 14), json.dumps(["Edema"] * 3)])
def test_names_of_other_labels_are_refused(tried: Tried, text: str) -> None:
    change = lambda file: file["studies/labels"].attrs.__setitem__("names", text)  # noqa: E731
    assert tried.wrong(change, "the column studies/labels ") == []


def png(data: bytes) -> bytes:
    out = io.BytesIO()
    Pillow.new("L", (32, 32)).save(out, "PNG")
    return out.getvalue()


def bomb(data: bytes) -> bytes:
    at = data.find(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", 65000, 65000) + data[at + 4 :]


@pytest.mark.parametrize("make", [png, bomb, lambda data: data[:-200], lambda data: b"", lambda data: b"\0" * 99])
@pytest.mark.parametrize("side", [32, 65000])
def test_an_image_that_no_decoder_takes_is_refused_by_its_row(
    tried: Tried, make: Callable[[bytes], bytes], side: int
) -> None:
    def change(file: h5py.File) -> None:
        ends = file["images/offset"][()]
        data = file["images/jpeg"][()].tobytes()
        images = [data[start:end] for start, end in pairwise(ends)]
        images[1] = make(images[1])
        put(file, "images/jpeg", np.frombuffer(b"".join(images), np.uint8))
        put(file, "images/offset", np.cumsum([0, *map(len, images)], dtype=np.int64))
        put(file, "images/crc32", np.array([crc32(image) for image in images], np.uint32))
        for name in ("images/width", "images/height"):
            put(file, name, np.array([32, side, 32], np.uint16))

    assert tried.wrong(change, "the image in row 1 is not a JPEG", ("verify", "show")) == []
    from diagcot.training.data.images import ShardImages

    for wanted in ("", "flip"):
        with pytest.raises(DataError, match="the image in row 1 "):
            ShardImages(tried.path.parent).pixels(ImageRef(tried.path.name, 1, wanted))


def test_what_else_a_file_holds_is_not_read(tried: Tried, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many reads, not much time: the old reader visited all groups, each by its whole path."""
    reads: list[int] = []
    real = hdf5._File.readinto

    def counted(self: Any, buffer: Any) -> int:
        reads.append(len(buffer))
        return real(self, buffer)

    def change(file: h5py.File) -> None:
        for place in (file, file["images"]):
            deep = place
            for _ in range(300):
                deep = deep.create_group("g")
            for number in range(300):
                place[f"more{number}"] = np.zeros(5)
        file["images/around"] = file["/"]

    monkeypatch.setattr(hdf5._File, "readinto", counted)
    plain = Shard(tried.whole)
    assert len(plain) == 3
    few, reads[:] = len(reads), []
    shard = Shard(tried.changed(change))
    assert len(shard) == 3 and len(reads) < few + 40
    assert shard.fingerprint == plain.fingerprint
    assert all(cli.main(["shards", verb, str(tried.path)]) == 0 for verb in VERBS)
