"""Annotation sets upon other collections, each from a small copy of its published layout."""

import json
from pathlib import Path

from diagcot.data.readers import registry
from diagcot.data.readers.origins import decide
from diagcot.data.study import CHEXPERT_LABELS
from tests.unit.data.test_collections import DICOM, corners, put, read, write_image

OTHER = "174413ec-4ec4c1f7-34ea26b7-c5f994f8-79ef1962"
PATH, OTHER_PATH = f"p10/p10000032/s50414267/{DICOM}.jpg", f"p10/p10000032/s53189527/{OTHER}.jpg"
METADATA = (
    "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns",
    f"{DICOM},10000032,50414267,CHEST (PA AND LAT),PA,3056,2544",
    f"{OTHER},10000032,53189527,CHEST (PA AND LAT),LATERAL,3056,2544",
)


def mimic(root: Path) -> Path:
    """The images and tables of MIMIC-CXR-JPG."""
    put(root / "mimic-cxr-2.0.0-metadata.csv", *METADATA)
    for path in (PATH, OTHER_PATH):
        write_image(root / "files" / path)
    return root


def test_mimic_cxr_as_r2gen_publishes_it(tmp_path: Path) -> None:
    records = [
        {
            "id": name,
            "study_id": int(path[15:23]),
            "subject_id": 10000032,
            "report": report,
            "image_path": [path],
            "split": split,
        }
        for name, path, report, split in (
            (DICOM, PATH, "The heart is enlarged . No effusion .", "train"),
            (OTHER, OTHER_PATH, "Small effusion .", "val"),
        )
    ]
    put(tmp_path / "annotation.json", json.dumps({"train": records[:1], "val": records[1:], "test": []}))
    reader, studies = read("mimic_cxr_r2gen", tmp_path, images=mimic(tmp_path / "mimic"))
    first, second = studies["50414267"], studies["53189527"]
    assert (first.findings, first.impression, first.split) == ("The heart is enlarged . No effusion .", "", "train")
    assert (first.labels["Cardiomegaly"], second.labels["Pleural Effusion"], second.split) == (1, 1, "validate")
    assert [study.images[0].view for study in (first, second)] == ["PA", "LATERAL"]
    assert first.images[0].origin == f"mimic-cxr/{DICOM}" and reader.bad == []
    assert reader.image_file(first, first.images[0]) == tmp_path / "mimic" / "files" / PATH


PLUS = (
    "path_to_image,path_to_dcm,frontal_lateral,ap_pa,deid_patient_id,patient_report_date_order,report,section_narrative,"
    "section_clinical_history,section_history,section_comparison,section_technique,section_procedure_comments,"
    "section_findings,section_impression,section_end_of_impression,section_summary,section_accession_number,age,sex,race,"
    "ethnicity,interpreter_needed,insurance_type,recent_bmi,deceased,split"
)


def test_chexpert_plus_with_the_labels_of_its_json_lines(tmp_path: Path) -> None:
    image = "train/patient42142/study5/view1_frontal.jpg"
    lateral = "valid/patient64541/study1/view2_lateral.jpg"
    texts = ("whole,n,cough,,none,,,Left effusion; small.,Effusion.,,,", "whole,n,,,,,,,Normal.,,,")
    put(tmp_path / "df_chexpert_plus_240401.csv", PLUS,
        f"{image},x.dcm,Frontal,AP,patient42142,12,{texts[0]},68,Female,,,,,,,train",
        f"{lateral},x.dcm,Lateral,,patient64541,1,{texts[1]},73,Male,,,,,,,valid")  # fmt: skip
    labels = {"path_to_image": image, **dict.fromkeys(CHEXPERT_LABELS), "Pleural Effusion": 1.0, "Edema": -1.0}
    put(
        tmp_path / "chexbert_labels" / "impression_fixed.json",
        *map(json.dumps, (labels, {**labels, "path_to_image": lateral})),
    )
    write_image(tmp_path / "PNG" / "train/patient42142/study5/view1_frontal.png")
    reader, studies = read("chexpert_plus", tmp_path)
    study = studies["patient42142/study5"]
    assert (study.findings, study.impression, study.indication) == ("Left effusion; small.", "Effusion.", "cough")
    assert (study.split, study.order, study.images[0].view) == ("train", "000000000012", "AP")
    assert study.labels == {"Pleural Effusion": 1, "Edema": -1}
    assert reader.image_file(study, study.images[0]).is_file()  # type: ignore[union-attr]
    other = studies["patient64541/study1"]
    assert (study.age, study.sex, other.age, other.sex) == ("68", "female", "73", "male")
    assert (other.split, other.images[0].view, other.findings) == ("validate", "LATERAL", "")
    assert study.images[0].origin == f"chexpert/{image}" and reader.bad == []
    dicoms = tmp_path / "DICOM" / "Uncompressed"
    (tmp_path / "PNG").rename(tmp_path / "other")
    write_image(dicoms / lateral.replace(".jpg", ".dcm"))
    reader, _ = read("chexpert_plus", tmp_path)
    assert reader.image_file(other, other.images[0]) == dicoms / lateral.replace(".jpg", ".dcm")


def test_padchest_gr_gives_a_box_for_each_region_of_a_sentence(tmp_path: Path) -> None:
    findings = [
        {"sentence_en": "Bilateral pleural effusion.", "sentence_es": "Derrame pleural bilateral.", "abnormal": True,
         "boxes": [[0.1, 0.6, 0.3, 0.9], [0.7, 0.6, 0.9, 0.9]], "extra_boxes": [], "labels": ["pleural effusion"],
         "locations": ["bilateral"], "progression": None},
        {"sentence_en": "No pneumothorax.", "sentence_es": "Sin neumotórax.", "abnormal": False},
    ]  # fmt: skip
    record = {"StudyID": "1_s", "ImageID": "1_i.png", "findings": findings}
    put(tmp_path / "grounded_reports_20240819.json", json.dumps([record], ensure_ascii=False))
    put(tmp_path / "master_table.csv", "StudyID,ImageID,PatientID,split,label,label_group",
        "1_s,1_i.png,p1,validation,pleural effusion,Pleural effusion", "1_s,1_i.png,p1,validation,normal,Other")  # fmt: skip
    write_image(tmp_path / "Padchest_GR_files" / "1_i.png")
    reader, studies = read("padchest_gr", tmp_path)
    (study,) = studies.values()
    assert (study.findings, study.split) == ("Bilateral pleural effusion. No pneumothorax.", "validate")
    assert [(box.label, box.phrase, corners(box)) for box in study.images[0].boxes] == [
        ("Pleural Effusion", "Bilateral pleural effusion.", (0.1, 0.6, 0.3, 0.9)),
        ("Pleural Effusion", "Bilateral pleural effusion.", (0.7, 0.6, 0.9, 0.9)),
    ]
    assert study.labels == {"Pleural Effusion": 1} and study.images[0].frontal and reader.bad == []
    assert study.images[0].origin == "padchest/1_i.png" and registry.find("padchest").language == "es"


def test_llava_rad_has_its_findings_in_the_conversation(tmp_path: Path) -> None:
    chat = {"id": "50414267", "image": f"mimic/{PATH}", "generate_method": "gpt4", "reason": "cough", "impressions": "Normal.",
            "view": "PA", "conversations": [{"from": "human", "value": "<image>\nDescribe."},
                                            {"from": "gpt", "value": "Clear lungs."}]}  # fmt: skip
    name = "chat_{}_MIMIC_CXR_all_gpt4extract_rulebased_v1.json{}"
    put(tmp_path / name.format("train", ""), json.dumps([chat]))
    silent = {**chat, "conversations": [chat["conversations"][0], {"from": "gpt", "value": float("nan")}]}  # type: ignore[index]
    put(tmp_path / name.format("test", "l"), json.dumps({**silent, "image": f"mimic/{OTHER_PATH}"}))
    reader, studies = read("llava_rad", tmp_path, images=mimic(tmp_path / "mimic"))
    assert {study.split: (study.findings, study.impression, study.indication) for study in studies.values()} == {
        "train": ("Clear lungs.", "Normal.", "cough"), "test": ("", "Normal.", "cough"),
    }  # fmt: skip
    assert studies["50414267"].images[0].view == "PA" and studies["50414267"].patient == "10000032"
    assert reader.image_file(studies["50414267"], studies["50414267"].images[0]).is_file()  # type: ignore[union-attr]
    put(
        tmp_path / name.format("train", ""),
        json.dumps([{**chat, "findings": "The heart is large.", "conversations": []}]),
    )
    _, studies = read("llava_rad", tmp_path, images=tmp_path / "mimic")
    assert studies["50414267"].findings == "The heart is large."


def test_mimic_nle_keeps_the_studies_that_it_explains(tmp_path: Path) -> None:
    rows = [
        {"sentence_ID": f"s50414267#{n}", "nle": text, "patient_id": "p10000032", "report_ID": "s50414267",
         "diagnosis_label": [[0, 0, 1]], "evidence_label": [0]}
        for n, text in enumerate(("Opacity may be pneumonia.", "Blunting suggests a small effusion."))
    ]  # fmt: skip
    put(tmp_path / "mimic-nle-train.json", *map(json.dumps, rows))
    put(tmp_path / "mimic-nle-dev.json", json.dumps({**rows[0], "report_ID": "s59999999"}))
    put(tmp_path / "mimic-nle-test.json", json.dumps({**rows[0], "report_ID": "s59999998"}))
    reader, studies = read("mimic_nle", tmp_path, images=mimic(tmp_path / "mimic"))
    (study,) = studies.values()
    assert (study.id, study.split, reader.patients()) == ("50414267", "train", {"10000032": 1})
    assert study.findings == "Opacity may be pneumonia. Blunting suggests a small effusion."
    assert (study.labels["Pneumonia"], study.images[0].view) == (-1, "PA")
    assert reader.image_file(study, study.images[0]) == tmp_path / "mimic" / "files" / PATH
    assert [what for _, what in reader.remarks] == ["1 of 1 rows name no known study and are not used"] * 2


def test_annotation_sets_share_the_splits_of_what_they_annotate(tmp_path: Path) -> None:
    record = {
        "id": DICOM,
        "study_id": 50414267,
        "subject_id": 10000032,
        "report": "x",
        "image_path": [PATH],
        "split": "train",
    }
    put(tmp_path / "a" / "annotation.json", json.dumps({"train": [record]}))
    put(tmp_path / "b" / "mimic-nle-test.json", json.dumps({"nle": "Effusion.", "report_ID": "s50414267"}))
    put(tmp_path / "b" / "mimic-nle-train.json", json.dumps({"nle": "Effusion.", "report_ID": "s59999999"}))
    put(tmp_path / "b" / "mimic-nle-dev.json", json.dumps({"nle": "Effusion.", "report_ID": "s59999999"}))
    images = mimic(tmp_path / "mimic")
    readers = [
        read("mimic_cxr_r2gen", tmp_path / "a", images=images)[0],
        read("mimic_nle", tmp_path / "b", images=images)[0],
    ]
    assert decide(readers) == [{"10000032": "test"}, {}]


def test_chest_imagenome_gives_the_boxes_of_regions(tmp_path: Path) -> None:
    silver = tmp_path / "silver_dataset"
    header = ",subject_id,study_id,dicom_id,path,ViewPosition"
    put(silver / "splits" / "train.csv", header, f"0,10000032,50414267,{DICOM},files/{PATH[:-4]}.dcm,PA")
    put(silver / "splits" / "valid.csv", header)
    put(silver / "splits" / "test.csv", header, f"0,10000032,53189527,{OTHER},files/{OTHER_PATH[:-4]}.dcm,AP")
    for dicom, name in ((DICOM, "right lung"), (OTHER, "cardiac silhouette"), ("0" * 8, "spine")):
        box = {"bbox_name": name, "x1": 1, "y1": 1, "x2": 5, "y2": 5, "original_x1": 254.4, "original_y1": 305.6,
               "original_x2": 1272.0, "original_y2": 1528.0}  # fmt: skip
        graph = {"image_id": dicom, "viewpoint": "pa", "objects": [box], "attributes": [], "relationships": []}
        put(silver / "scene_graph" / f"{dicom}_SceneGraph.json", json.dumps(graph))
    reader, studies = read("chest_imagenome", tmp_path, images=mimic(tmp_path / "mimic"))
    first, second = studies["50414267"], studies["53189527"]
    assert [(box.label, corners(box)) for box in first.images[0].boxes] == [("right lung", (0.1, 0.1, 0.5, 0.5))]
    assert (first.split, second.split, second.images[0].view) == ("train", "test", "AP")
    assert reader.image_file(first, first.images[0]) == tmp_path / "mimic" / "files" / PATH
    assert [what for _, what in reader.remarks] == ["1 of 3 rows name no known image and are not used"]
    put(silver / "splits" / "images_to_avoid.csv", header, f"0,10000032,50414267,{DICOM},files/x.dcm,PA")
    _, studies = read("chest_imagenome", tmp_path, images=tmp_path / "mimic")
    assert studies["50414267"].split == "test"
