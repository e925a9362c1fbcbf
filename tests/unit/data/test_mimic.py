"""MIMIC-CXR in its editions: JPEG and DICOM trees, 2.1.0's table, reports in a zip; bad rows; memory at full scale."""

import csv
import gzip
import io
import struct
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest

from diagcot.data.errors import DataError
from diagcot.data.phantom.tree import write_csv, write_tree
from diagcot.data.readers import mimic_cxr
from diagcot.data.readers.archive import ReportZip
from diagcot.data.readers.layouts import PREFIX, RADIOLOGISTS, REPORTS_ZIP, folder
from diagcot.data.readers.mimic_cxr import LABELS, METADATA, SPLIT, MimicCxr
from diagcot.data.study import Study, pairs
from tests.unit.data.test_pixels import dicom

REPORT = "FINAL REPORT\n FINDINGS:  Clear.\n\n IMPRESSION:  Normal.\n"


def name(number: int) -> str:
    digits = f"{number:040x}"
    return "-".join(digits[i : i + 8] for i in range(0, 40, 8))


def row(
    subject: int, study: int, image: int, view: str = "PA", date: str = "21800506", time: str = "213014.531"
) -> list[object]:
    return [name(image), subject, study, "CHEST (PA AND LAT)", view, 3056, 2544, date, time, "", "", "Erect"]


def tree(root: Path, images: Sequence[Sequence[object]], split: str = "train", reports: bool = True) -> Path:
    """The official tables of these images, and a report for each study."""
    (root / "files").mkdir(parents=True)
    studies = dict.fromkeys((subject, study) for _, subject, study, *_ in images)
    write_csv(root / f"{PREFIX}metadata.csv.gz", METADATA, images)
    write_csv(root / f"{PREFIX}split.csv.gz", SPLIT, [(f[0], f[2], f[1], split) for f in images])
    write_csv(root / f"{PREFIX}chexpert.csv.gz", LABELS, [(*s, *["1.0", "-1.0", "0.0"], *[""] * 11) for s in studies])
    if reports:
        with zipfile.ZipFile(root / REPORTS_ZIP, "w", zipfile.ZIP_DEFLATED) as out:
            for subject, study in studies:
                out.writestr(str(folder(Path(), subject, study).with_suffix(".txt")), REPORT)  # type: ignore[arg-type]
    return root


IMAGES = [
    row(10000032, 53911762, 1, "AP", "21800723"),
    row(10000032, 50414267, 2, "PA"),
    row(10000032, 50414267, 3, "LL"),
    row(10000764, 57375967, 4, "", ""),
]


def studies(reader: MimicCxr) -> list[Study]:
    return [study for patient in reader.patients() for study in reader.studies(patient)]


def test_several_views_a_study_and_the_order_of_a_patients_studies(tmp_path: Path) -> None:
    reader = MimicCxr(tree(tmp_path / "t", IMAGES))
    assert reader.patients() == {"10000032": 3, "10000764": 1}
    first, later, other = studies(reader)
    assert [(i.id, i.view, i.width, i.height) for i in first.images] == [
        (name(2), "PA", 2544, 3056), (name(3), "LATERAL", 2544, 3056),
    ]  # fmt: skip
    assert [(prior.id, now.id) for prior, now in pairs([first, later, other])] == [("50414267", "53911762")]
    assert other.order == "" and other.images[0].view == ""
    assert reader.labels(first) == {"Atelectasis": 1, "Cardiomegaly": -1, "Consolidation": 0}
    assert (first.findings, first.impression, reader.bad) == ("Clear.", "Normal.", [])


def test_age_and_sex_come_from_the_patients_of_mimic_iv(tmp_path: Path) -> None:
    root = tree(tmp_path / "t", IMAGES)
    columns = ("subject_id", "gender", "anchor_age", "anchor_year", "anchor_year_group", "dod")
    persons = [(10000032, "F", 52, 2180, "2014 - 2016", ""), (10000764, "M", 86, 2132, "", ""), (1, "M", 1, 1, "", "")]
    write_csv(root / "patients.csv.gz", columns, persons)
    found = studies(MimicCxr(root))
    assert [(study.age, study.sex) for study in found] == [("52", "female")] * 2 + [
        ("", "male")
    ]  # the last has no date
    assert {(study.age, study.sex) for study in studies(MimicCxr(tree(tmp_path / "u", IMAGES)))} == {("", "")}


def test_two_studies_at_the_same_time_are_no_pair(tmp_path: Path) -> None:
    images = [row(10000032, 50000001, 1), row(10000032, 50000002, 2), row(10000032, 50000003, 3, date="21900101")]
    found = studies(MimicCxr(tree(tmp_path / "t", images)))
    assert [(prior.id, now.id) for prior, now in pairs(found)] == [("50000002", "50000003")]


def test_the_dicom_tree_takes_its_tables_from_the_other(tmp_path: Path) -> None:
    jpg = tree(tmp_path / "jpg", IMAGES, reports=False)
    root = tmp_path / "dicom"
    path = folder(root, 10000032, 50414267) / f"{name(2)}.dcm"
    path.parent.mkdir(parents=True)
    path.write_bytes(dicom(np.arange(600, dtype=np.uint16).reshape(20, 30)))
    folder(root, 10000032, 50414267).with_suffix(".txt").write_text(REPORT)
    write_csv(root / "cxr-record-list.csv.gz", ("subject_id", "study_id", "dicom_id", "path"), [])
    with pytest.raises(DataError, match="give its folder as `tables`"):
        MimicCxr(root)
    reader = MimicCxr(root, tables=jpg)
    study = next(reader.studies("10000032"))
    assert reader.image_file(study, study.images[0]) == path
    assert study.findings == "Clear."


def test_the_table_that_2_1_0_added(tmp_path: Path) -> None:
    root = tree(tmp_path / "t", IMAGES)
    (root / RADIOLOGISTS).write_text("study_id,Airspace Opacity,Edema,Pneumonia\n50414267,1.0,0.0,-1.0\n")
    reader = MimicCxr(root, labels="radiologist")
    first, later, _ = studies(reader)
    assert reader.labels(first) == {"Lung Opacity": 1, "Edema": 0, "Pneumonia": -1}
    assert reader.labels(later) == {}
    (root / RADIOLOGISTS).unlink()
    with pytest.raises(DataError, match=RADIOLOGISTS):
        MimicCxr(root, labels="radiologist").labels(first)


def test_tables_may_be_unpacked_or_of_another_version(tmp_path: Path) -> None:
    root = tree(tmp_path / "t", IMAGES)
    metadata, split = root / f"{PREFIX}metadata.csv.gz", root / f"{PREFIX}split.csv.gz"
    metadata.with_suffix("").write_bytes(gzip.decompress(metadata.read_bytes()))
    metadata.unlink()
    split.rename(root / "mimic-cxr-2.1.0-split.csv.gz")
    assert len(studies(MimicCxr(root))) == 3


@pytest.mark.parametrize(
    ("images", "told"),
    [
        ([*IMAGES, row(10000032, 50414267, 2)], "a second row of image"),
        ([*IMAGES, row(1000003, 50414267, 9)], "subject_id is a number, not a number of eight digits"),
        ([*IMAGES, [name(9)[:-1], *row(10000032, 50414267, 9)[1:]]], "dicom_id is "),
        (
            [*IMAGES, [*row(10000032, 50414267, 9)[:5], "3O56", *row(1, 1, 9)[6:]]],
            "not a number, but a text of 4 characters",
        ),
    ],
)
def test_bad_rows_are_noted_or_fatal(images: list[Sequence[object]], told: str, tmp_path: Path) -> None:
    root = tree(tmp_path / "t", images)
    reader = MimicCxr(root)
    assert sum(reader.patients().values()) == 4
    ((where, what),) = [fault for fault in reader.bad if "metadata" in fault[0]]
    assert where.endswith("metadata.csv.gz:6") and told in what
    with pytest.raises(DataError, match=r"metadata\.csv\.gz:6"):
        MimicCxr(root, on_bad_row="fail").patients()


def test_a_spreadsheets_numbers_are_fatal(tmp_path: Path) -> None:
    root = tree(tmp_path / "t", [["8.4E+35", *IMAGES[0][1:]]])
    with pytest.raises(DataError, match=r"metadata\.csv\.gz:2: dicom_id is a rounded number.*spreadsheet"):
        MimicCxr(root).patients()


def test_a_study_without_a_split_is_left_out_and_noted(tmp_path: Path) -> None:
    root = tree(tmp_path / "t", IMAGES)
    write_csv(root / f"{PREFIX}split.csv.gz", SPLIT, [(f[0], f[2], f[1], "validate") for f in IMAGES[:3]])
    reader = MimicCxr(root)
    assert [(s.id, s.split) for s in studies(reader)] == [("50414267", "validate"), ("53911762", "validate")]
    assert reader.bad == [("study 57375967", f"{PREFIX}split.csv.gz has no row for it; it is left out")]
    rows = [(f[0], f[2], f[1], "train" if i else "test") for i, f in enumerate(IMAGES[1:3])]
    write_csv(root / f"{PREFIX}split.csv.gz", SPLIT, rows)
    with pytest.raises(DataError, match="study 50414267 is in two splits"):
        MimicCxr(root).patients()


def test_a_report_that_is_not_utf8_is_read_and_noted(tmp_path: Path) -> None:
    root = tree(tmp_path / "t", IMAGES, reports=False)
    for image in IMAGES:
        path = folder(root, image[1], image[2]).with_suffix(".txt")  # type: ignore[arg-type]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"FINDINGS: Caf\xe9.\n\nIMPRESSION: x.")
    reader = MimicCxr(root)
    assert {study.findings for study in studies(reader)} == {"Café."}
    assert ("report s50414267.txt", "is not UTF-8; it was read as Latin-1") in reader.remarks


def zipped(count: int, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("files/p10/index.html", "x")
        for number in range(count):
            archive.writestr(f"files/p10/p10000032/s{50_000_000 + number * 7}.txt", f"report {number}" * 3)
    return out.getvalue()


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_the_zip_gives_what_the_standard_librarys_gives(method: int, tmp_path: Path) -> None:
    path = tmp_path / "r.zip"
    path.write_bytes(zipped(200, method))
    ours = ReportZip(path)
    assert len(ours) == 200
    with zipfile.ZipFile(path) as archive:
        for number in range(200):
            study = 50_000_000 + number * 7
            assert ours.read(study) == archive.read(f"files/p10/p10000032/s{study}.txt")
    assert ours.read(50_000_001) is None and ours.read(99_999_999) is None


def test_the_form_for_more_than_65535_members_is_read(tmp_path: Path) -> None:
    path = tmp_path / "r.zip"  # MIMIC-CXR's has 227,835 reports; that many take a test too long to write
    raw = zipped(20)
    count, length, start = struct.unpack("<HII", raw[-12:-2])
    record = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, length, start)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, len(raw) - 22, 1)
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(raw[:-22] + record + locator + end)
    with zipfile.ZipFile(path) as archive:  # what is written here is a zip to others, too
        assert len(archive.namelist()) == 21
    assert len(ReportZip(path)) == 20 and ReportZip(path).read(50_000_007) == b"report 1" * 3


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda raw: raw[: len(raw) // 2], "its end is missing: the download stopped early"),
        (lambda raw: raw[:-30] + raw[-22:], "its list of members is incomplete"),
        (lambda raw: b"", "its end is missing"),
    ],
)
def test_a_damaged_zip_is_reported(spoil: Callable[[bytes], bytes], told: str, tmp_path: Path) -> None:
    path = tmp_path / "r.zip"
    path.write_bytes(spoil(zipped(20)))
    with pytest.raises(DataError, match=rf"r\.zip is damaged \({told}.*download it again"):
        ReportZip(path)


def test_a_damaged_report_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "r.zip"
    raw = bytearray(zipped(3, zipfile.ZIP_STORED))
    raw[raw.index(b"report 1")] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"report s50000007\.txt is damaged \(its checksum differs\)"):
        ReportZip(path).read(50_000_007)


def table(path: Path, columns: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    with gzip.open(path, "wt", compresslevel=1, newline="") as out:
        writer = csv.writer(out)
        writer.writerow(columns)
        writer.writerows(lines)


def large_tree(root: Path, count: int) -> Path:
    """Tables of so many studies, with 1.65 images each, as MIMIC-CXR has."""
    (root / "files").mkdir(parents=True)
    keys = [(10_000_000 + n // 4, 50_000_000 + n) for n in range(count)]
    images = [(s, n, f) for f, (s, n) in enumerate([*keys, *keys[: int(count * 0.65)]])]
    table(root / f"{PREFIX}metadata.csv.gz", METADATA, (row(s, n, f) for s, n, f in images))
    table(root / f"{PREFIX}split.csv.gz", SPLIT, ((name(f), n, s, "train") for s, n, f in images))
    table(root / f"{PREFIX}chexpert.csv.gz", LABELS, ((*key, *["1.0"] * 14) for key in keys))
    with zipfile.ZipFile(root / REPORTS_ZIP, "w", zipfile.ZIP_STORED) as out:
        out.writestr("files/p10/p10000000/s50000000.txt", REPORT)
    return root


def test_a_phantom_tree_reads_as_it_was_written(tmp_path: Path) -> None:
    write_tree(tmp_path, 6, seed=3, size=64)
    reader = MimicCxr(tmp_path)
    found = studies(reader)
    assert len(found) == 6 and all(s.dataset == "phantom" and s.order for s in found)
    assert all(reader.image_file(s, i).is_file() for s in found for i in s.images)
    assert mimic_cxr.FINDINGS_FILE in {path.name for path in tmp_path.iterdir()}
