"""Readers of IU-Xray and MIMIC-CXR-JPG, and the fetch of the reports."""

import io
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from diagcot.data.errors import DataError
from diagcot.data.phantom.tree import write_tree
from diagcot.data.readers import fetch, iu_xray, layouts, mimic_cxr
from diagcot.data.readers.iu_xray import IuXray
from diagcot.data.readers.mimic_cxr import MimicCxr
from diagcot.data.study import Study

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data"
REPORTS, IMAGES = SHARED / "openi_reports", SHARED / "openi_images"
needs_reports = pytest.mark.skipif(not REPORTS.is_dir(), reason="no ../shared/data/openi_reports")

XML = """<eCitation><uId id="{uid}"/><licenseURL>http://creativecommons.org/licenses/by-nc-nd/4.0/</licenseURL>
<AbstractText Label="FINDINGS">Heart  size normal.</AbstractText><AbstractText Label="IMPRESSION">Clear.</AbstractText>
<MeSH><major>Opacity/lung/base/left</major><automatic>opacity</automatic></MeSH>
<parentImage id="{uid}_IM-0001-1001"/></eCitation>"""


def archive(root: Path, reports: dict[str, str]) -> Path:
    with tarfile.open(root / layouts.IU_ARCHIVE, "w:gz") as out:
        for name, text in reports.items():
            member = tarfile.TarInfo(f"ecgen-radiology/{name}.xml")
            member.size = len(text.encode())
            out.addfile(member, io.BytesIO(text.encode()))
    return root


@pytest.fixture(scope="module")
def reports() -> IuXray:
    return IuXray(REPORTS, images=IMAGES if IMAGES.is_dir() else None)


@needs_reports
def test_all_reports_of_iu_xray(reports: IuXray) -> None:
    studies = list(reached(reports))
    assert len(studies) == 3955
    assert sum(bool(s.findings) for s in studies) == 3425
    assert sum(bool(s.impression) for s in studies) == 3921
    assert sum(bool(s.findings and s.impression) for s in studies) == 3419
    assert Counter(len(s.images) for s in studies) == {0: 104, 1: 446, 2: 3208, 3: 181, 4: 15, 5: 1}
    assert sum(len(s.images) for s in studies) == 7470
    images = [what for _, what in reports.remarks]  # 13 are here, and that the others are not is told once
    assert images == (["7457 of 7470 images are missing, the first is CXR1_IM-0001-3001"] if IMAGES.is_dir() else [])
    assert sum("normal" in s.tags for s in studies) == 1391
    assert len(reports.patients()) == 3955
    assert all(reports.patients().values())


@needs_reports
def test_views_of_iu_xray(reports: IuXray) -> None:
    views = Counter(image.view for study in reached(reports) for image in study.images)
    assert sum(views.values()) == 7470
    assert views["LATERAL"] == 3648  # all of Kaggle's; of 4 images that it does not have no view is known
    assert views[""] == 4


@needs_reports
def test_views_from_headers_are_those_of_kaggles_table(reports: IuXray, tmp_path: Path) -> None:
    """What `make data-iu` fetches has no table of projections."""
    for name in ("NLMCXR_reports.tgz", "nlmcxr_dicom_metadata.csv.gz"):
        (tmp_path / name).symlink_to(REPORTS / name)
    known = {image.id: image for study in reached(reports) for image in study.images if image.view}
    found = {image.id: image for study in reached(IuXray(tmp_path)) for image in study.images if image.id in known}
    given = [name for name in found if found[name].view]
    right = [name for name in given if found[name].frontal == known[name].frontal]
    assert (len(known), len(given), len(right)) == (7466, 7463, 7380)
    assert {found[name].view for name in given} == {"PA", "AP", "FRONTAL", "LATERAL"}


@needs_reports
def test_automatic_terms_are_kept_apart(reports: IuXray) -> None:
    assert len(reports.patients()) == 3955
    assert reports.automatic["CXR54"] == ("atelectases", "calcified granuloma", "Atelectasis", "Thoracic Aorta")
    (study,) = reports.studies("CXR54")
    assert "Pulmonary Atelectasis/base/right/mild" in study.tags
    assert reports.labels(study)["Atelectasis"] == 1
    assert reports.labels(study)["Pneumothorax"] == 0


@needs_reports
@pytest.mark.skipif(not IMAGES.is_dir(), reason="no ../shared/data/openi_images")
def test_all_13_images_find_their_study(reports: IuXray) -> None:
    found = {
        image.id: path
        for study in reached(reports)
        for image in study.images
        if (path := reports.image_file(study, image))
    }
    assert len(found) == 13
    (pair,) = reports.studies("CXR1000")
    assert [reports.image_file(pair, image) is not None for image in pair.images] == [True, True, True]


@needs_reports
def test_r2gen_split_survives_the_blank_key() -> None:
    split = iu_xray.r2gen_records(REPORTS / "annotation.r2gen_iu_xray.json")
    assert Counter(record["split"] for record in split.values()) == {"train": 2069, "val": 296, "test": 590}


ANNOTATION = "annotation.r2gen_iu_xray.json"


def reached(reader: IuXray) -> list[Study]:
    return [study for patient in reader.patients() for study in reader.studies(patient)]


@needs_reports
def test_kaggles_two_tables_are_enough(reports: IuXray, tmp_path: Path) -> None:
    for name in ("indiana_reports.csv", "indiana_projections.csv"):
        (tmp_path / name).symlink_to(REPORTS / name)
    reader = IuXray(tmp_path)
    studies = reached(reader)
    views = Counter(image.view for study in studies for image in study.images)
    assert (len(studies), reader.bad, views) == (3851, [], {"FRONTAL": 3818, "LATERAL": 3648})
    assert sum(bool(s.findings) for s in studies) == 3337 and sum(bool(s.impression) for s in studies) == 3820
    for study in studies:  # the XMLs have the same texts
        (same,) = reports.studies(study.id)
        assert (same.findings, same.impression) == (study.findings, study.impression)
        assert {image.id for image in study.images} <= {image.id for image in same.images} | {
            "CXR2084_IM-0715-1001-0002", "CXR2084_IM-0715-2001-0001", "CXR3809_IM-1919-1003002",
        }  # fmt: skip
    (second,) = reader.studies("CXR2")
    assert second.tags == ("Cardiomegaly/borderline", "Pulmonary Artery/enlarged")


@needs_reports
def test_r2gens_annotation_is_enough(tmp_path: Path) -> None:
    (tmp_path / "annotation.json").symlink_to(REPORTS / ANNOTATION)
    image = tmp_path / "images" / "CXR2384_IM-0942" / "1.png"
    image.parent.mkdir(parents=True)
    image.touch()
    reader = IuXray(tmp_path, images=tmp_path / "images")
    studies = reached(reader)
    assert Counter(study.split for study in studies) == {"train": 2069, "validate": 296, "test": 590}
    assert sum(len(study.images) for study in studies if study.split == "test") == 1180
    (study,) = reader.studies("CXR2384")
    assert [image.id for image in study.images] == ["CXR2384_IM-0942/0", "CXR2384_IM-0942/1"]
    assert [reader.image_file(study, image) for image in study.images] == [None, image]


@needs_reports
def test_sizes_from_the_table_of_dicom_headers(reports: IuXray) -> None:
    images = {image.id: image for study in reached(reports) for image in study.images}
    assert (images["CXR1000_IM-0003-2001"].width, images["CXR1000_IM-0003-2001"].height) == (2320, 2828)
    assert sum(not image.width for image in images.values()) == 1  # the table has 7,469 of 7,470


def test_xmls_unpacked(tmp_path: Path) -> None:
    (tmp_path / "ecgen-radiology").mkdir()
    for number in (1, 2):
        (tmp_path / "ecgen-radiology" / f"{number}.xml").write_text(XML.format(uid=f"CXR{number}"))
    assert list(IuXray(tmp_path).patients()) == ["CXR1", "CXR2"]


def test_studies_outside_the_annotation_are_left_out(tmp_path: Path) -> None:
    archive(tmp_path, {str(i): XML.format(uid=f"CXR{i}") for i in range(3)})
    path = tmp_path / "annotation.json"
    path.write_text(json.dumps({"val": [{"id": "CXR2_IM-0942", "split": "val"}], "    ": []}))
    reader = IuXray(tmp_path, annotation=path)
    assert list(reader.patients()) == ["CXR2"]
    assert next(reader.studies("CXR2")).split == "validate"


@needs_reports
def test_seeded_split_is_stable_and_near_its_shares(reports: IuXray) -> None:
    splits = Counter(s.split for s in reached(reports))
    assert abs(splits["train"] / 3955 - 0.7) < 0.02
    assert abs(splits["validate"] / 3955 - 0.1) < 0.02
    assert iu_xray.default_split("CXR1") == "train"


def test_bad_report_is_named_and_skipped_or_fatal(tmp_path: Path) -> None:
    archive(tmp_path, {"1": XML.format(uid="CXR1"), "2": "<eCitation><uId", "3": "<eCitation/>"})
    reader = IuXray(tmp_path)
    assert list(reader.patients()) == ["CXR1"]
    assert [name for name, _ in reader.bad] == ["ecgen-radiology/2.xml", "ecgen-radiology/3.xml"]
    with pytest.raises(DataError, match=r"2\.xml: is not a report"):
        IuXray(tmp_path, on_bad_report="fail").patients()
    (study,) = reader.studies("CXR1")
    assert study.findings == "Heart size normal."
    assert study.tags == ("Opacity/lung/base/left",)


def test_damaged_and_missing_archives_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="make data-iu"):
        IuXray(tmp_path)
    archive(tmp_path, {str(i): XML.format(uid=f"CXR{i}") for i in range(50)})
    whole = (tmp_path / layouts.IU_ARCHIVE).read_bytes()
    (tmp_path / layouts.IU_ARCHIVE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="damaged"):
        IuXray(tmp_path).patients()
    with pytest.raises(DataError, match="IU_XRAY_DIR"):
        IuXray(tmp_path, images=tmp_path / "nowhere")


def test_foreign_annotation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "annotation.json"
    path.write_text(json.dumps({"train": [{"name": "x"}]}))
    with pytest.raises(DataError, match="R2Gen"):
        iu_xray.r2gen_records(path)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mimic")
    write_tree(root, 8, seed=1, size=64)
    return root


def copied(tree: Path, to: Path) -> Path:
    return Path(shutil.copytree(tree, to / "tree"))


def test_reports_from_a_folder_are_those_of_the_zip(tree: Path, tmp_path: Path) -> None:
    loose = copied(tree, tmp_path)
    with zipfile.ZipFile(loose / layouts.REPORTS_ZIP) as reports:
        reports.extractall(tmp_path / "reports")
    (loose / layouts.REPORTS_ZIP).unlink()
    assert layouts.missing_mimic(loose)
    readers = MimicCxr(tree), MimicCxr(loose, reports=tmp_path / "reports")
    studies = [[s for p in reader.patients() for s in reader.studies(p)] for reader in readers]
    assert studies[0] == studies[1]


def test_half_a_tree_names_everything_that_is_missing(tree: Path, tmp_path: Path) -> None:
    half = copied(tree, tmp_path)
    for name in ("mimic-cxr-2.0.0-split.csv.gz", layouts.REPORTS_ZIP):
        (half / name).unlink()
    shutil.rmtree(half / "files")
    with pytest.raises(DataError) as error:
        MimicCxr(half)
    for word in ("split.csv.gz", "files/", "reports", "PhysioNet"):
        assert word in str(error.value)
    assert "chexpert" not in str(error.value)
    with pytest.raises(DataError, match="the folder"):
        MimicCxr(tmp_path / "nowhere")


def test_damaged_tables_are_named(tree: Path, tmp_path: Path) -> None:
    broken = copied(tree, tmp_path)
    table = broken / "mimic-cxr-2.0.0-metadata.csv.gz"
    table.write_bytes(table.read_bytes()[:100])
    with pytest.raises(DataError, match=r"metadata.*download it again"):
        MimicCxr(broken).patients()
    shutil.copy(broken / "mimic-cxr-2.0.0-chexpert.csv.gz", table)
    with pytest.raises(DataError, match="has no columns dicom_id"):
        MimicCxr(broken).patients()


def test_without_the_phantom_tables_it_is_read_as_mimic(tree: Path, tmp_path: Path) -> None:
    real = copied(tree, tmp_path)
    (real / mimic_cxr.FINDINGS_FILE).unlink()
    (real / mimic_cxr.BOXES_FILE).unlink()
    reader = MimicCxr(real)
    study = next(reader.studies(next(iter(reader.patients()))))
    assert study.key.startswith("mimic-cxr/5")
    assert study.tags == ()
    assert not study.images[0].boxes


def wheel(path: Path, data: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as out:
        for name in fetch.FILES:
            out.writestr(f"torchxrayvision/data/{name}", data)
    return path


def test_a_file_that_is_not_as_published_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="sha256 differs"):
        fetch.unpack(wheel(tmp_path / "w.whl", b"other"), tmp_path, list(fetch.FILES))
    assert fetch.missing(tmp_path) == list(fetch.FILES)


@needs_reports
def test_nothing_is_fetched_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(REPORTS / "NLMCXR_reports.tgz", tmp_path)
    shutil.copy(REPORTS / "nlmcxr_dicom_metadata.csv.gz", tmp_path)
    assert fetch.missing(tmp_path) == ["BBox_List_2017.csv.gz"]
    shutil.copy(SHARED / "nih_cxr14" / "BBox_List_2017.csv.gz", tmp_path)
    monkeypatch.setattr(fetch.wheels, "download", lambda *_: pytest.fail("downloaded again"))
    assert fetch.fetch(tmp_path) == []
    assert "CC BY-NC-ND" in (tmp_path / "LICENCE.txt").read_text()


def test_without_network_the_message_says_what_to_do(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "diagcot.data.readers.fetch", "--to", str(tmp_path)],
        env={"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": "/dev/null", "PATH": ""},
        cwd=Path(__file__).resolve().parents[3],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "could not be downloaded" in done.stderr and "--wheel" in done.stderr
