"""Tables, values and names in other forms than the published ones: recognised where nothing is lost, else named."""

import json
from pathlib import Path
from typing import Any

import pytest

from diagcot.data.errors import DataError
from diagcot.data.readers.iu_xray import IuXray
from diagcot.data.readers.tables import number, rows
from diagcot.data.study import view_of
from tests.unit.data.test_collections import CHEXPERT, DICOM, MS_PATH, corners, put, read, vindr, write_image


def table(path: Path, raw: bytes) -> list[tuple[str, ...]]:
    path.write_bytes(raw)
    return [row for _, row in rows(path, ("image_id", "Patient ID"), ("x",))]


@pytest.mark.parametrize(
    "raw",
    [
        b"Image_ID,patient id,X\na,1,2\n",
        b'"IMAGE ID" ,"PATIENT_ID", x \na,1,2\n',
        b"image id;PatientID;x\na;1;2\n",
        "image_id,Patient ID,x\na,1,2\n".encode("utf-16-le"),
        "image_id\tPatient ID\tx\na\t1\t2\n".encode("utf-16-be"),
    ],
)
def test_headers_in_another_case_form_or_encoding_are_recognised(raw: bytes, tmp_path: Path) -> None:
    assert table(tmp_path / "t.csv", raw) == [("a", "1", "2")]


def test_two_columns_that_could_be_meant_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no columns Patient ID"):
        table(tmp_path / "t.csv", b"image_id,patient id,PATIENT ID\na,1,2\n")


def test_keys_of_json_and_json_lines_under_another_name_are_recognised(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps({"Image_Id": name, "patient id": 1, "X": None}) for name in "ab")
    assert table(tmp_path / "t.json", lines.encode()) == [("a", "1", ""), ("b", "1", "")]


@pytest.mark.parametrize("value", ["#NAME?", "#REF!", "#VALUE!", "#N/A", "#DIV/0!", "########", "#BEZUG!", "#NV"])
def test_error_values_of_spreadsheets_are_no_text(value: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"image_id,Patient ID\na,1\nb,{value}\n")
    found: list[tuple[str, str]] = []
    assert [row for _, row in rows(path, ("image_id", "Patient ID"), fault=lambda *fault: found.append(fault))] == [
        ("a", "1")
    ]
    ((where, what),) = found
    assert where.endswith("t.csv:3") and "Patient ID is" in what and "spreadsheet" in what
    with pytest.raises(DataError, match=r"t\.csv:3: Patient ID is"):
        list(rows(path, ("image_id", "Patient ID")))


def test_decimal_commas_are_read_and_ambiguous_ones_are_not() -> None:
    assert [number(text) for text in ("1,5", "-0,25", "0,125", "12,3456", "7", "1.5")] == [
        1.5,
        -0.25,
        0.125,
        12.3456,
        7,
        1.5,
    ]
    with pytest.raises(ValueError):
        number("1,024")


def test_labels_with_decimal_commas_and_blanks(tmp_path: Path) -> None:
    put(tmp_path / "train.csv", CHEXPERT.replace(",", ";"),
        "train/patient00001/study1/view1_frontal.jpg;Female;68; frontal ;ap;;;1,0;-1,0;nan;0,0;;;;;;;;1,0")  # fmt: skip
    write_image(tmp_path / "train/patient00001/study1/view1_frontal.jpg")
    reader, studies = read("chexpert", tmp_path)
    (study,) = studies.values()
    assert reader.bad == [] and study.images[0].view == "AP"
    assert study.labels == {"Cardiomegaly": 1, "Lung Opacity": -1, "Edema": 0, "Support Devices": 1}


@pytest.mark.parametrize(
    ("text", "view"),
    [
        ("Lateral", "LATERAL"), (" lateral ", "LATERAL"), ("LATERAL VIEW", "LATERAL"), ("left lateral", "LATERAL"),
        ("LL", "LATERAL"), ("L", "LATERAL"), ("XTABLE LATERAL", "LATERAL"), ("Frontal", "FRONTAL"), ("frontal view", "FRONTAL"),
        ("frontal (AP)", "AP"), ("AP_horizontal", "AP"), ("ap supine", "AP"), ("PA erect", "PA"), ("Posteroanterior", "PA"),
        ("postero-anterior", "PA"), ("antero-posterior", "AP"), ("UNK", ""), ("", ""), ("nan", ""),
        ("PA and lateral", "PA AND LATERAL"), ("SWIMMERS", "SWIMMERS"), ("LAO", "LAO"),
    ],
)  # fmt: skip
def test_views_by_normalised_words(text: str, view: str) -> None:
    assert view_of(text) == view


def test_projections_of_iu_xray_in_another_form_and_damaged_reports(tmp_path: Path) -> None:
    put(tmp_path / "indiana_reports.csv", "UID;MeSH;Problems;image;indication;comparison;findings;impression",
        "1;normal;;;;;Clear.;Ok.", "2;normal;;;#NAME?;;Clear.;Ok.", "3;normal;;;;;########;Ok.")  # fmt: skip
    names = [f"{n}_IM-000{n}-400{k}.dcm.png" for n in (1, 2, 3) for k in (1, 2)]
    put(tmp_path / "indiana_projections.csv", "uid,filename,projection",
        f"1,{names[0]},frontal ", f"1,{names[1]},LATERAL", f"2,{names[2]},PA", f"3,{names[4]},oblique")  # fmt: skip
    reader = IuXray(tmp_path)
    assert list(reader.patients()) == ["CXR1"]
    (study,) = reader.studies("CXR1")
    assert [image.view for image in study.images] == ["FRONTAL", "LATERAL"]
    assert len(reader.bad) == 2 and all("spreadsheet" in what for _, what in reader.bad)
    assert [what for _, what in reader.remarks] == [
        "the projection is neither frontal nor lateral; the view is not known"
    ]
    assert reader.rows == 3


def test_collections_of_frontal_images_say_so(tmp_path: Path) -> None:
    _, studies = read("vindr_cxr", vindr(tmp_path / "vindr"))
    assert {image.view for study in studies.values() for image in study.images} == {"PA"}
    put(tmp_path / "covid" / "train.txt", "1 a.png negative cohen")
    put(tmp_path / "covid" / "test.txt", "2 b.png positive ricord")
    write_image(tmp_path / "covid" / "train" / "a.png")
    _, studies = read("covidx_cxr3", tmp_path / "covid")
    assert all(image.frontal for study in studies.values() for image in study.images)


def vinbigdata(root: Path, *boxes: str, size: tuple[int, int] = (40, 20), meta: bool = False) -> Any:
    put(root / "train.csv", "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max",
        *(f"{name * 32},Cardiomegaly,3,R{n},{box}" for name, box in zip("abc", boxes, strict=False) for n in (8, 9)))  # fmt: skip
    for name, _ in zip("abc", boxes, strict=False):
        write_image(root / "train" / f"{name * 32}.png", *size)
    if meta:
        put(root / "train_meta.csv", "image_id,dim0,dim1", *(f"{name * 32},200,400" for name in "abc"))
    reader, studies = read("vinbigdata", root)
    return reader, [[corners(box) for box in study.images[0].boxes] for study in studies.values()]


def test_boxes_of_a_resized_copy_follow_the_sizes_that_it_states(tmp_path: Path) -> None:
    reader, boxes = vinbigdata(tmp_path, "100,50,200,100", "0,0,40,20", meta=True)
    assert boxes == [[(0.25, 0.25, 0.5, 0.5)], [(0.0, 0.0, 0.1, 0.1)]] and reader.bad_boxes == []


def test_boxes_of_a_resized_copy_without_sizes_are_left_out_and_counted(tmp_path: Path) -> None:
    reader, boxes = vinbigdata(tmp_path, "100,50,200,100", "0,0,4,2", "8,8,12,12")
    assert boxes == [[], [], []]  # those that happen to fit are as wrong as the others
    assert len(reader.bad_boxes) == 3 and all("resized copy" in what for _, what in reader.bad_boxes)
    reader, boxes = vinbigdata(tmp_path / "whole", "4,4,12,8", "0,0,40,20")
    assert boxes == [[(0.1, 0.2, 0.3, 0.4)], [(0.0, 0.0, 1.0, 1.0)]] and reader.bad_boxes == []


def test_the_splits_of_ms_cxr_are_those_of_mimic_cxr_where_it_has_none(tmp_path: Path) -> None:
    put(tmp_path / "MS_CXR_Local_Alignment_v1.0.0.csv",
        "category_name,label_text,path,x,y,w,h,image_width,image_height,dicom_id",
        f"Pneumonia,left base,{MS_PATH},1,2,5,6,40,20,{DICOM}")  # fmt: skip
    mimic = tmp_path / "mimic"
    write_image(mimic / MS_PATH)
    _, studies = read("ms_cxr", tmp_path, images=mimic)
    (study,) = studies.values()
    assert (study.split, study.images[0].view, study.images[0].origin) == ("", "FRONTAL", f"mimic-cxr/{DICOM}")
    put(mimic / "mimic-cxr-2.0.0-split.csv", "dicom_id,study_id,subject_id,split", f"{DICOM},50414267,10000032,test")
    put(mimic / "mimic-cxr-2.0.0-metadata.csv", "dicom_id,ViewPosition", f"{DICOM},PA")
    _, studies = read("ms_cxr", tmp_path, images=mimic)
    (study,) = studies.values()
    assert (study.split, study.images[0].view) == ("test", "PA")


def test_nih_without_its_lists_has_no_split_and_renamed_lists_are_found(tmp_path: Path) -> None:
    put(tmp_path / "Data_Entry_2017_v2020.csv", "Image Index,Finding Labels,Follow-up #,Patient ID,View Position",
        "00000001_000.png,No Finding,0,1,PA", "00000002_000.png,No Finding,0,2,PA")  # fmt: skip
    (tmp_path / "images").mkdir()
    _, studies = read("nih_cxr14", tmp_path)
    assert {study.split for study in studies.values()} == {""}
    put(tmp_path / "train_val_list_NIH.txt", "00000002_000.png", "00000009_000.png")
    put(tmp_path / "test_list_NIH.txt", "00000001_000.png")
    reader, studies = read("nih_cxr14", tmp_path)
    assert [study.split for study in studies.values()] == ["test", "train"]
    assert reader.remarks == [("train_val_list_NIH.txt", "1 of 2 rows name no known image and are not used")]
