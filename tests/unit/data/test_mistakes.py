"""Mistakes that people make with folders of MIMIC-CXR and IU-Xray: each is read as it is meant, or named with its remedy."""

import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow

from diagcot.data.readers.layouts import PREFIX, REPORTS_ZIP, folder
from diagcot.jobs import Context, Unit, UserError
from diagcot.jobs.testing import context, run_unit
from diagcot.shards import build
from diagcot.shards.settings import BuildSettings, check
from tests.unit.data.test_mimic import row, tree

METADATA = f"{PREFIX}metadata.csv.gz"
WORKBOOK = b"PK\x03\x04" + bytes(60)


@pytest.fixture
def mimic(tmp_path: Path) -> Path:
    """Eight studies, complete and right."""
    images = [row(10000000 + n, 50000000 + n, n + 1) for n in range(8)]
    root = tree(tmp_path / "mimic", images)
    for dicom, subject, study, *_ in images:
        path = folder(root, subject, study) / f"{dicom}.jpg"  # type: ignore[arg-type]
        path.parent.mkdir(parents=True)
        Pillow.linear_gradient("L").resize((40, 50)).save(path)
    return root


def stage(root: Path, **source: Any) -> Context:
    settings = {"sources": [{"kind": "mimic_cxr", "path": str(root), **source}], "image_size": 32}
    return context(root.parent, settings, stage="shard")


def account(ctx: Context, name: str = "mimic-cxr") -> dict[str, Any]:
    check(BuildSettings(**ctx.settings))
    result = run_unit(build, Unit("00000"), ctx)
    assert result is not None
    found: dict[str, Any] = result.counts["sources"][name]
    return found


def unpack(root: Path) -> None:
    with zipfile.ZipFile(root / REPORTS_ZIP) as reports:
        reports.extractall(root)
    (root / REPORTS_ZIP).unlink()


def images(root: Path) -> list[Path]:
    return sorted(root.rglob("*.jpg"))


def as_png(root: Path) -> None:
    for path in images(root):
        Pillow.open(path).resize((20, 25)).save(path.with_suffix(".png"))
        path.unlink()


def not_packed(root: Path) -> None:
    (root / METADATA).write_bytes(gzip.decompress((root / METADATA).read_bytes()))


def packed_but_named_csv(root: Path) -> None:
    (root / METADATA).rename(root / METADATA.removesuffix(".gz"))


def windows(root: Path) -> None:
    unpack(root)
    for path in root.rglob("s*.txt"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    for path in root.glob("*.csv.gz"):
        text = gzip.decompress(path.read_bytes()).replace(b"\r\n", b"\n")
        path.write_bytes(gzip.compress(text.replace(b"\n", b"\r\n")))


def looping(root: Path) -> None:
    (root / "files" / "self").symlink_to(root / "files")
    (root / "files" / "p10" / "loop").symlink_to(root / "files" / "p10" / "loop")


def of_any_folders(root: Path) -> None:
    """The reports packed again from a folder of the user's own."""
    unpack(root)
    with zipfile.ZipFile(root / REPORTS_ZIP, "w") as out:
        for path in sorted(root.rglob("s*.txt")):
            out.write(path, f"my/reports/{path.name}")
            path.unlink()


@pytest.mark.parametrize("mistake", [as_png, not_packed, packed_but_named_csv, windows, looping, of_any_folders])
def test_what_is_meant_is_read(mistake: Callable[[Path], None], mimic: Path) -> None:
    mistake(mimic)
    counts = account(stage(mimic))
    assert (counts["in_shards"]["images"], counts["lost"], counts["asked"]) == (8, {}, {})


def renamed(root: Path) -> None:
    (root / METADATA).rename(root / "metadata.csv.gz")


def workbook(root: Path) -> None:
    (root / METADATA).unlink()
    (root / f"{PREFIX}metadata.xlsx").write_bytes(WORKBOOK)


def downloaded_twice(root: Path) -> None:
    (root / REPORTS_ZIP).rename(root / "mimic-cxr-reports (1).zip")


def reports_packed(root: Path) -> None:
    unpack(root)
    for path in list(root.rglob("s*.txt")):
        path.with_suffix(".txt.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()


def flat(root: Path) -> None:
    for path in images(root):
        path.rename(root / "files" / path.name)


def one_folder_down(root: Path) -> None:
    root.rename(root.parent / "2.0.0")
    root.mkdir()
    (root.parent / "2.0.0").rename(root / "2.0.0")


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        (renamed, r"metadata\.csv\.gz \(metadata\.csv\.gz is there: give it the published name"),
        (workbook, r"metadata\.xlsx is there: save it as CSV under the published name"),
        (downloaded_twice, r"mimic-cxr-reports \(1\)\.zip is there: give this file as `reports`"),
        (reports_packed, r"s\*\.txt\.gz are there: unpack them"),
        (flat, r"they lie in files/ without the folders of patients and studies; keep the published tree"),
        (one_folder_down, r"files/ \(the images\) \(2\.0\.0/files is there: give the folder 2\.0\.0\)"),
    ],
)
def test_the_plan_names_the_mistake(mistake: Callable[[Path], None], told: str, mimic: Path) -> None:
    mistake(mimic)
    with pytest.raises(UserError, match=told):
        check(BuildSettings(**stage(mimic).settings))


def half_of_the_images(root: Path) -> None:
    for path in images(root)[::2]:
        path.unlink()


def half_of_the_reports(root: Path) -> None:
    unpack(root)
    for path in sorted(root.rglob("s*.txt"))[::2]:
        path.unlink()


def other_split(root: Path) -> None:
    path = root / f"{PREFIX}split.csv.gz"
    path.write_bytes(gzip.compress(b"".join(gzip.decompress(path.read_bytes()).splitlines(keepends=True)[:5])))


def workbook_named_csv(root: Path) -> None:
    (root / METADATA).unlink()
    (root / METADATA.removesuffix(".gz")).write_bytes(WORKBOOK)


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        (half_of_the_images, r"4 of 8 images \(50\.0%\): 4: the file does not exist"),
        (half_of_the_reports, r"4 of 8 studies \(50\.0%\): 4: the report is not there, or has no text"),
        (other_split, r"4 of 20 rows \(20\.0%\): 4: … has no row for it, e\.g\. study 500000"),
        (workbook_named_csv, r"metadata\.csv is an Excel workbook or another zip file.*save or unpack it as CSV"),
    ],
)
def test_the_stage_names_the_mistake(mistake: Callable[[Path], None], told: str, mimic: Path) -> None:
    mistake(mimic)
    with pytest.raises(UserError, match=told):
        account(stage(mimic))


def test_studies_without_a_row_of_labels_are_told(mimic: Path) -> None:
    path = mimic / f"{PREFIX}chexpert.csv.gz"
    path.write_bytes(gzip.compress(b"".join(gzip.decompress(path.read_bytes()).splitlines(keepends=True)[:4])))
    ctx = stage(mimic)
    account(ctx)
    (told,) = [line for line in (ctx.stage_dir / "events.jsonl").read_text().splitlines() if "data_remark" in line]
    assert "5 of 8 studies have no row: no labels" in told


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"indiana_reports (1).csv": b"x"}, r"indiana_reports \(1\)\.csv is there: give it the published name"),
        ({"indiana_reports.xlsx": WORKBOOK}, r"indiana_reports\.xlsx is there: save it as CSV"),
        ({"iu/ecgen-radiology/1.xml": b"x"}, r"iu/ecgen-radiology is there: give the folder iu"),
        ({"annotation.json": b"{}", "images/NLMCXR_png.tgz": b"x"}, r"images.*NLMCXR_png\.tgz is there.*or unpack it"),
    ],
)
def test_folders_of_iu_xray(files: dict[str, bytes], told: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "images").mkdir(exist_ok=True)
    source = {"kind": "iu_xray", "path": str(tmp_path), "images": str(tmp_path / "images")}
    with pytest.raises(UserError, match=told):
        check(BuildSettings(sources=[source]))  # type: ignore[list-item]
