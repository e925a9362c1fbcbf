"""The registry's collections, each from a small copy of its official layout, and NIH's from real images and tables."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from diagcot.data.errors import DataError
from diagcot.data.readers import registry
from diagcot.data.readers.collection import TableCollection
from diagcot.data.study import CHEXPERT_LABELS, Box, Study
from diagcot.jobs import UserError

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data"


def put(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_image(path: Path, width: int = 40, height: int = 20) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(np.arange(width * height, dtype=np.uint16).reshape(height, width)).save(path, "PNG")


def read(kind: str, root: Path, **options: Any) -> tuple[TableCollection, dict[str, Study]]:
    reader = TableCollection(registry.find(kind), root, **options)
    return reader, {study.id: study for patient in reader.patients() for study in reader.studies(patient)}


def corners(box: Box) -> tuple[float, ...]:
    return tuple(round(n, 4) for n in (box.x1, box.y1, box.x2, box.y2))


def test_every_entry_is_valid_and_says_where_it_comes_from() -> None:
    found = {entry.name: entry for entry in registry.entries()}
    assert set(found) == set(registry.names()) and len(found) == 26
    assert all(entry.url.startswith("https://") and entry.licence for entry in found.values())


needs_nih = pytest.mark.skipif(not (SHARED / "nih_cxr14").is_dir(), reason="no ../shared/data/nih_cxr14")


@needs_nih
def test_nih_real_tables_and_images() -> None:
    reader, studies = read("nih_cxr14", SHARED / "nih_cxr14")
    assert (len(studies), sum(reader.patients().values()), reader.bad) == (33, 33, [])
    boxed = {s.images[0].id: s.images[0].boxes for s in studies.values() if s.images[0].boxes}
    assert len(boxed) == 12
    (box,) = boxed["00026911_000.png"]  # the table of boxes says Infiltrate
    assert box.label == "Infiltration"
    assert box.x1 == pytest.approx(555.885714285714 / 1024)
    assert box.y2 == pytest.approx((235.140740740741 + 313.159788359788) / 1024)
    study = studies["00026911_000.png"]
    assert study.tags == ("Effusion", "Infiltration", "Mass")
    assert study.labels["Pleural Effusion"] == study.labels["Lung Lesion"] == 1
    assert study.labels["Pneumothorax"] == study.labels["No Finding"] == 0
    assert "Fracture" not in study.labels  # not one of NIH's classes: not read for
    assert (study.patient, study.images[0].view, study.order) == ("26911", "AP", "000000000000")
    assert all(reader.image_file(s, s.images[0]).is_file() for s in studies.values())  # type: ignore[union-attr]


@needs_nih
def test_nih_all_984_boxes_fit_their_images() -> None:
    from diagcot.data.readers.records import TableLayout

    entry = registry.find("nih_cxr14")
    faults: list[tuple[str, str]] = []
    path = SHARED / "nih_cxr14" / "BBox_List_2017.csv.gz"
    records = [record for _, record in TableLayout(entry.tables[1], entry).records(path, lambda *f: faults.append(f))]
    assert (len(records), len({r["image"] for r in records}), faults) == (984, 880, [])
    assert {r["boxes"][0].label for r in records} <= set(entry.classes)


def nih(root: Path) -> Path:
    put(root / "Data_Entry_2017_v2020.csv",
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]",
        "00000001_000.png,Cardiomegaly|Emphysema,0,1,58,M,PA,2682,2749,0.143,0.143",
        "00000001_001.png,No Finding,1,1,58,M,PA,2894,2729,0.143,0.143",
        "00000001_010.png,Nodule,10,1,59,M,AP,2500,2048,0.168,0.168",
        "00000002_000.png,No Finding,0,2,81,M,PA,2500,2048,0.171,0.171")  # fmt: skip
    put(root / "train_val_list.txt", "00000002_000.png")
    put(root / "test_list.txt", *(f"00000001_{n}.png" for n in ("000", "001", "010")))
    write_image(root / "images_001" / "images" / "00000001_000.png")
    write_image(root / "images_002" / "images" / "00000002_000.png")
    return root


def test_nih_split_lists_folders_and_order(tmp_path: Path) -> None:
    reader, studies = read("nih_cxr14", nih(tmp_path))
    assert {s.patient: s.split for s in studies.values()} == {"1": "test", "2": "train"}
    assert [s.id for s in reader.studies("1")] == ["00000001_000.png", "00000001_001.png", "00000001_010.png"]
    assert reader.image_file(studies["00000002_000.png"], studies["00000002_000.png"].images[0]) == (
        tmp_path / "images_002" / "images" / "00000002_000.png"
    )
    lost = reader.image_file(studies["00000001_001.png"], studies["00000001_001.png"].images[0])
    assert lost is not None and not lost.exists()  # told when it is opened


CHEXPERT = "Path,Sex,Age,Frontal/Lateral,AP/PA," + ",".join(CHEXPERT_LABELS)


def test_chexpert(tmp_path: Path) -> None:
    put(tmp_path / "train.csv", CHEXPERT,
        "CheXpert-v1.0-small/train/patient00001/study2/view1_frontal.jpg,Female,68,Frontal,AP,,,1.0,-1.0,,0.0,,,,,,,,1.0",
        "CheXpert-v1.0-small/train/patient00001/study2/view2_lateral.jpg,Female,68,Lateral,,,,1.0,-1.0,,0.0,,,,,,,,1.0",
        "CheXpert-v1.0-small/train/patient00001/study10/view1_frontal.jpg,Female,68,Frontal,PA,1.0,,,,,,,,,,,,,")  # fmt: skip
    put(tmp_path / "valid.csv", CHEXPERT,
        "CheXpert-v1.0-small/valid/patient64541/study1/view1_frontal.jpg,Male,73,Frontal,AP" + ",0.0" * 14)  # fmt: skip
    put(tmp_path / "test_labels.csv", "Path," + ",".join(CHEXPERT_LABELS),
        "test/patient64741/study1/view1_frontal.jpg," + ",".join(["1.0"] * 14))  # fmt: skip
    write_image(tmp_path / "train/patient00001/study2/view1_frontal.jpg")
    reader, studies = read("chexpert", tmp_path)
    assert [s.split for s in studies.values()] == ["train", "train", "validate", "test"]
    first, second = reader.studies("patient00001")
    assert (first.id, second.id) == ("patient00001/study2", "patient00001/study10")  # 2 before 10
    assert [i.view for i in first.images] == ["AP", "LATERAL"]
    assert first.labels == {"Cardiomegaly": 1, "Lung Opacity": -1, "Edema": 0, "Support Devices": 1}
    assert (second.labels, first.tags) == ({"No Finding": 1}, ())
    assert reader.image_file(first, first.images[0]).is_file()  # type: ignore[union-attr]
    assert studies["patient64741/study1"].images[0].view == "FRONTAL"


def test_rsna(tmp_path: Path) -> None:
    a, b, c = ("0004cfab-14fd-4e49-80ba-63a80b6bddd6", "00436515-870c-4b36-a041-de91049b9ab4", "003d8fa0-6bf1-40ed")
    put(tmp_path / "stage_2_train_labels.csv", "patientId,x,y,width,height,Target", f"{a},,,,,0",
        f"{b},264.0,152.0,213.0,379.0,1", f"{b},562.0,152.0,256.0,453.0,1", f"{c},,,,,0")  # fmt: skip
    put(tmp_path / "stage_2_detailed_class_info.csv", "patientId,class", f"{a},No Lung Opacity / Not Normal",
        f"{b},Lung Opacity", f"{b},Lung Opacity", f"{c},Normal")  # fmt: skip
    (tmp_path / "stage_2_train_images").mkdir()
    reader, studies = read("rsna_pneumonia", tmp_path)
    assert [s.labels for s in (studies[a], studies[b], studies[c])] == [
        {"No Finding": 0, "Lung Opacity": 0}, {"No Finding": 0, "Lung Opacity": 1}, {"No Finding": 1, "Lung Opacity": 0},
    ]  # fmt: skip
    boxes = studies[b].images[0].boxes
    assert [corners(x) for x in boxes] == [(0.2578, 0.1484, 0.4658, 0.5186), (0.5488, 0.1484, 0.7988, 0.5908)]
    assert (boxes[0].label, reader.patients()[b], studies[a].tags) == ("Lung Opacity", 1, ())
    assert all(image.frontal for study in studies.values() for image in study.images)


DICOM = "02aa804e-bde0afdd-112c0b34-7bc16630-4e384014"
MS_PATH = f"files/p10/p10000032/s50414267/{DICOM}.jpg"


def test_ms_cxr_table_and_coco_say_the_same(tmp_path: Path) -> None:
    put(tmp_path / "csv" / "MS_CXR_Local_Alignment_v1.1.0.csv",
        "category_name,label_text,path,x,y,w,h,image_width,image_height,dicom_id,split",
        f'Pneumonia,"patchy, left base",{MS_PATH},100,200,50,60,1000,2000,{DICOM},val',
        f"Pleural Effusion,small effusion,{MS_PATH},0,1900,500,100,1000,2000,{DICOM},val")  # fmt: skip
    image = {"file_name": f"{DICOM}.jpg", "width": 1000, "height": 2000, "id": 1, "num_annotations": 2, "path": MS_PATH}
    notes = [
        {"id": 1, "image_id": 1, "category_id": 3, "bbox": [100, 200, 50, 60], "label_text": "patchy, left base"},
        {"id": 2, "image_id": 1, "category_id": 5, "bbox": [0, 1900, 500, 100], "label_text": "small effusion"},
    ]
    names = [{"id": 3, "name": "Pneumonia"}, {"id": 5, "name": "Pleural Effusion"}]
    put(tmp_path / "coco" / "MS_CXR_Local_Alignment_v1.0.0.json",
        json.dumps({"info": {}, "licenses": [], "images": [image], "annotations": notes, "categories": names}))  # fmt: skip
    mimic = tmp_path / "mimic"
    write_image(mimic / MS_PATH)
    (reader, table), (_, coco) = (read("ms_cxr", tmp_path / form, images=mimic) for form in ("csv", "coco"))
    (study,) = table.values()
    assert (study.id, study.patient, study.split, study.images[0].id) == ("50414267", "10000032", "validate", DICOM)
    assert study.labels == {"Pneumonia": 1, "Pleural Effusion": 1}
    assert [(b.phrase, corners(b)) for b in study.images[0].boxes] == [
        ("patchy, left base", (0.1, 0.1, 0.15, 0.13)), ("small effusion", (0.0, 0.95, 0.5, 1.0)),
    ]  # fmt: skip
    assert coco["50414267"].images == study.images
    assert reader.image_file(study, study.images[0]) == mimic / MS_PATH


def vindr(root: Path) -> Path:
    names = registry.find("vindr_cxr").tables[0].labels.columns  # type: ignore[union-attr]
    at = {name: place for place, name in enumerate(names)}

    def row(*present: str) -> str:
        return ",".join("1" if place in {at[p] for p in present} else "0" for place in range(len(names))) + ",0"

    header = ",".join([*names, "Other diseases"])
    put(root / "annotations/image_labels_train.csv", f"image_id,rad_id,{header}",
        f"{'a' * 32},R8,{row('Cardiomegaly')}", f"{'a' * 32},R9,{row('Cardiomegaly', 'Pleural effusion')}",
        f"{'a' * 32},R10,{row()}")  # fmt: skip
    put(root / "annotations/image_labels_test.csv", f"image_id,{header}", f"{'b' * 32},{row('Nodule/Mass')}")
    put(root / "annotations/annotations_train.csv", "image_id,rad_id,class_name,x_min,y_min,x_max,y_max",
        f"{'a' * 32},R8,Cardiomegaly,4,4,12,8", f"{'a' * 32},R9,Cardiomegaly,4,4,16,8",
        f"{'a' * 32},R9,Pleural effusion,30,10,38,18", f"{'a' * 32},R10,No finding,,,,")  # fmt: skip
    put(root / "annotations/annotations_test.csv", "image_id,class_name,x_min,y_min,x_max,y_max",
        f"{'b' * 32},Nodule/Mass,10,10,20,20")  # fmt: skip
    write_image(root / "train" / f"{'a' * 32}.png")
    write_image(root / "test" / f"{'b' * 32}.png")
    return root


def test_vindr_takes_what_two_of_three_readers_say_and_the_size_from_the_image(tmp_path: Path) -> None:
    _, studies = read("vindr_cxr", vindr(tmp_path))
    train, test = studies["a" * 32], studies["b" * 32]
    assert (train.labels["Cardiomegaly"], train.labels["Pleural Effusion"], train.tags) == (1, 0, ())
    (box,) = train.images[0].boxes  # one of the two of R8 and R9; image of 40 x 20
    assert (box.label, corners(box)) == ("Cardiomegaly", (0.1, 0.2, 0.35, 0.4))
    assert (test.split, test.labels["Lung Lesion"], test.tags) == ("test", 1, ("Nodule/Mass",))
    assert [(b.label, corners(b)) for b in test.images[0].boxes] == [("Nodule/Mass", (0.25, 0.5, 0.5, 1.0))]


def test_vinbigdata(tmp_path: Path) -> None:
    rows = [f"{'a' * 32},Aortic enlargement,0,R{n},4,4,12,8" for n in (8, 9)]
    put(tmp_path / "train.csv", "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max", *rows,
        f"{'a' * 32},No finding,14,R10,,,,", *(f"{'b' * 32},No finding,14,R{n},,,," for n in (1, 2, 3)))  # fmt: skip
    write_image(tmp_path / "train" / f"{'a' * 32}.png")
    reader, studies = read("vinbigdata", tmp_path)
    assert studies["a" * 32].tags == ("Aortic enlargement",) and studies["a" * 32].labels["No Finding"] == 0
    assert len(studies["a" * 32].images[0].boxes) == 1
    assert studies["b" * 32].labels["No Finding"] == 1
    assert reader.patients() == {"a" * 32: 1, "b" * 32: 1}


PADCHEST = (
    ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,ViewPosition_DICOM,Projection,"
    "MethodProjection,Pediatric,Modality_DICOM,Manufacturer_DICOM,PhotometricInterpretation_DICOM,"
    "PixelRepresentation_DICOM,PixelAspectRatio_DICOM,SpatialResolution_DICOM,BitsStored_DICOM,WindowCenter_DICOM,"
    "WindowWidth_DICOM,Rows_DICOM,Columns_DICOM,XRayTubeCurrent_DICOM,Exposure_DICOM,ExposureInuAs_DICOM,ExposureTime,"
    "RelativeXRayExposure_DICOM,ReportID,Report,MethodLabel,Labels,Localizations,LabelsLocalizationsBySentence,"
    "labelCUIS,LocalizationsCUIS"
)


def padchest(image: str, study: str, date: str, view: str, labels: str) -> str:
    patient = "839860488694292331637988235681460987"
    return (f'1,{image},0,{date},{study},{patient},1930.0,M,POSTEROANTERIOR,{view},Manual,No,CR,ImagingDynamics,'
            f'MONOCHROME2,0,,0.1,12,2047,4096,2430,2000,,,,,,4765777,"sin hallazgos patológicos, torax",Physician,'
            f"\"{labels}\",\"['loc basal']\",\"[['normal']]\",[],[]")  # fmt: skip


def test_padchest(tmp_path: Path) -> None:
    study = "20536686640136348236148679891455886468"
    put(tmp_path / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", PADCHEST,
        padchest(f"{study}_k6ga29.png", study, "20140915", "PA", "['COPD signs', 'pleural effusion ']"),
        padchest(f"{study}_k6ga30.png", study, "20140915", "L", "['COPD signs', 'pleural effusion ']"),
        padchest("1_x.png", "135803415504923515076821959678074435083", "20120101", "AP_horizontal", "['normal']"))  # fmt: skip
    write_image(tmp_path / "0" / f"{study}_k6ga29.png")
    reader, studies = read("padchest", tmp_path)
    (patient,) = reader.patients()
    assert [s.order for s in reader.studies(patient)] == ["000020120101", "000020140915"]
    assert [i.view for i in studies[study].images] == ["PA", "LATERAL"]
    assert (studies[study].labels, studies[study].tags) == ({"Pleural Effusion": 1}, ("COPD signs", "pleural effusion"))
    assert studies[study].findings == "sin hallazgos patológicos, torax"
    assert reader.image_file(studies[study], studies[study].images[0]).is_file()  # type: ignore[union-attr]


def test_covidx(tmp_path: Path) -> None:
    put(
        tmp_path / "train.txt",
        "379 1e64990d1b40c1758a2aaa9c7f7a85_jumbo.jpeg negative cohen",
        "12 b.png positive ricord",
    )
    put(tmp_path / "test.txt", "MIDRC-RICORD-1C-1 c.png positive ricord")
    write_image(tmp_path / "test" / "c.png")
    _, studies = read("covidx_cxr3", tmp_path)
    assert [(s.patient, s.split, s.tags) for s in studies.values()] == [
        ("379", "train", ()), ("12", "train", ("COVID-19",)), ("MIDRC-RICORD-1C-1", "test", ("COVID-19",)),
    ]  # fmt: skip


@pytest.mark.skipif(not (SHARED / "chestx_det_annotations").is_dir(), reason="no ../shared/data/chestx_det_annotations")
def test_chestx_det_real_annotations(tmp_path: Path) -> None:
    source = SHARED / "chestx_det_annotations" / "ChestX_Det_test.json"
    (tmp_path / source.name).symlink_to(source)
    (tmp_path / "test_data").mkdir()
    reader, studies = read("chestx_det", tmp_path)
    records = json.loads(source.read_text())
    assert (len(studies), reader.bad) == (len(records), [])
    for record in records:
        study = studies[record["file_name"]]
        assert len(study.images[0].boxes) == len(
            {(s, *b) for s, b in zip(record["syms"], record["boxes"], strict=True)}
        )
        assert set(study.tags) == set(record["syms"]) - set(CHEXPERT_LABELS)
    assert corners(studies["36302.png"].images[0].boxes[0]) == (0.7803, 0.6504, 0.915, 0.7432)
    assert studies["36302.png"].images[0].boxes[0].label == "Pleural Effusion"


MINE = """
name: clinic
title: Images of our clinic
url: https://example.org
licence: none
images: ["png/{image}.png"]
tables:
  - file: images.jsonl
    image: id
    patient: who
    study: visit
    view: view
    split: {column: part, optional: true}
    report: text
    labels: {column: found, separator: list}
    boxes: {label: {value: Nodule}, corners: [box], size: [1, 1]}
from_report: true
"""


def test_a_collection_of_ones_own_needs_a_yaml_alone(tmp_path: Path) -> None:
    put(tmp_path / "clinic.yaml", MINE)
    row = {"id": "a", "who": "p", "visit": "v", "view": "pa", "found": ["Nodule"], "box": [0.1, 0.2, 0.3, 0.4],
           "text": "FINDINGS: A nodule.\nNo effusion.\n\nIMPRESSION: Nodule."}  # fmt: skip
    put(tmp_path / "images.jsonl", json.dumps(row), json.dumps({**row, "id": "b", "box": None}))
    write_image(tmp_path / "png" / "a.png")
    _, studies = read(str(tmp_path / "clinic.yaml"), tmp_path)
    study = studies["v"]
    assert (study.findings, study.impression) == ("A nodule. No effusion.", "Nodule.")
    assert (study.labels["Lung Lesion"], study.labels["Pleural Effusion"]) == (1, 0)
    assert [[corners(b) for b in i.boxes] for i in study.images] == [[(0.1, 0.2, 0.3, 0.4)], []]


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("id", "x" * 300, "id has 300 bytes between slashes, over 200"),
        ("id", "a\nb", "id holds a control character"),
        ("id", "a\0", "id holds a control character"),
        ("who", "x/" * 600, "who has 1,200 bytes, over 1,000"),
        ("visit", "The heart is enlarged. " * 20, "visit has 459 bytes between slashes, over 200"),
        ("id", "a\ud83d", "id holds half of a character"),
        ("text", "FINDINGS: \ud83d.", "text holds half of a character"),
    ],
)
def test_a_row_whose_ids_cannot_name_files_or_whose_text_is_not_whole_is_left_out(
    tmp_path: Path, field: str, value: str, why: str
) -> None:
    put(tmp_path / "clinic.yaml", MINE)
    row = {"id": "a", "who": "p", "visit": "v", "view": "pa", "found": [], "box": None, "text": "FINDINGS: Clear."}
    put(
        tmp_path / "images.jsonl",
        *(json.dumps(row | changed) for changed in ({}, {"id": "b"}, {"id": "c", field: value})),
    )
    write_image(tmp_path / "png" / "a.png")
    reader, studies = read(str(tmp_path / "clinic.yaml"), tmp_path)
    assert [image.id for study in studies.values() for image in study.images] == ["a", "b"]
    ((where, told),) = reader.bad
    assert where.endswith("images.jsonl:3") and told.startswith(why) and value[:20] not in told
    assert all(reader.image_file(study, image) for study in studies.values() for image in study.images)


def test_the_entry_in_the_docs_works(tmp_path: Path) -> None:
    docs = Path(__file__).resolve().parents[3] / "docs" / "data.md"
    put(tmp_path / "clinic.yaml", "name: clinic" + docs.read_text().split("```yaml\nname: clinic")[1].split("```")[0])
    put(tmp_path / "images.csv", "Path,year,mrn,accession,date,view,part,text,labels",
        '/old/f1.png,2020,p,s2,20200102,LL,dev,"FINDINGS: Fluid.\n\nIMPRESSION: Fluid.",pleural fluid;wires',
        "/old/f2.png,2020,p,s1,20190102,PA,train,FINDINGS: Clear.,")  # fmt: skip
    put(tmp_path / "boxes.csv", "image,finding,x,y,w,h", "f1,pleural fluid,512,0,256,1024", "f1,wires,0,0,1,1")
    write_image(tmp_path / "png" / "2020" / "f1.png")
    reader, studies = read(str(tmp_path / "clinic.yaml"), tmp_path)
    assert list(studies) == ["s1", "s2"]
    study = studies["s2"]
    assert (study.split, study.labels, study.tags) == ("validate", {"Pleural Effusion": 1}, ("pleural fluid", "wires"))
    assert [(b.label, corners(b)) for b in study.images[0].boxes] == [
        ("Pleural Effusion", (0.5, 0.0, 0.75, 1.0)), ("wires", (0.0, 0.0, 0.001, 0.001)),
    ]  # fmt: skip
    assert reader.image_file(study, study.images[0]) == tmp_path / "png" / "2020" / "f1.png"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("image: id", "imagee: id"), r"clinic\.yaml:9: unknown key 'imagee'; did you mean 'image'"),
        (("images: [", "imagess: ["), r"unknown key 'imagess'; did you mean 'images'"),
        (("{value: Nodule}", "{value: Nodule, column: x}"), "needs either `column` or `value`"),
        (("corners: [box]", "corners: [a, b]"), "each of four columns or one"),
        (("found, separator: list", "''"), r"clinic\.yaml:15: .*needs either `column` or `columns`"),
        (("from_report: true", "chexpert: {Nodule: Lung Lesions}"), "not a CheXpert label; did you mean 'Lung Lesion'"),
    ],
)  # fmt: skip
def test_faults_of_an_entry_are_told_by_line(change: tuple[str, str], told: str, tmp_path: Path) -> None:
    put(tmp_path / "clinic.yaml", MINE.replace(*change))
    with pytest.raises(UserError, match=told):
        registry.find(str(tmp_path / "clinic.yaml"))


def test_unknown_collection_and_missing_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'padchest'"):
        registry.find("padchst")
    with pytest.raises(DataError) as error:
        TableCollection(registry.find("rsna_pneumonia"), tmp_path)
    for word in ("stage_2_train_labels.csv", "stage_2_detailed_class_info.csv", "stage_2_train_images", "kaggle.com"):
        assert word in str(error.value)


def test_tables_of_your_own(tmp_path: Path) -> None:
    """Images with one diagnosis each are all for the test; studies of several images keep them together."""
    write_image(tmp_path / "a/1.png")
    write_image(tmp_path / "a/2.png")
    rows = [{"image_id": f"i{n}", "image_path": f"a/{n}.png", "diagnosis": "Emphysema of both lungs."} for n in (1, 2)]
    put(tmp_path / "diagnoses.json", json.dumps(rows))
    reader, studies = read("diagnosis_table", tmp_path)
    assert not reader.bad and {study.split for study in studies.values()} == {"test"} and len(studies) == 2
    assert {study.findings for study in studies.values()} == {"Emphysema of both lungs."}
    assert all(reader.image_file(study, study.images[0]).is_file() for study in studies.values())  # type: ignore[union-attr]
    put(
        tmp_path / "reports.csv",
        "image_id,image_path,study_id,patient_id,findings,impression",
        "i1,a/1.png,s1,p1,No fracture.,Normal spine.",
        "i2,a/2.png,s1,p1,No fracture.,Normal spine.",
    )
    reader, studies = read("report_table", tmp_path)
    (study,) = studies.values()
    assert not reader.bad and len(study.images) == 2 and (study.patient, study.impression) == ("p1", "Normal spine.")
