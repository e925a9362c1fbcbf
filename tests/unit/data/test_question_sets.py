"""Collections that ask questions themselves, boxes in XML and entities of reports, each from a small copy of its layout."""

import json
from pathlib import Path
from typing import Any

import pytest

from diagcot.data.readers import registry
from diagcot.data.readers.given_questions import read_question
from diagcot.data.study import Question
from tests.unit.data.test_annotations import OTHER, OTHER_PATH, PATH, mimic
from tests.unit.data.test_collections import DICOM, corners, put, read, write_image


def vqa(question: str, answer: Any, split: str = "train", image: str = DICOM, path: str = PATH) -> dict[str, Any]:
    """A row of MIMIC-CXR-VQA."""
    return {
        "split": split, "idx": 1, "subject_id": "10000032", "study_id": path[15:23], "image_id": image, "image_path": path,
        "question": question, "content_type": "presence", "semantic_type": "verify", "template": "Is there ${attribute}?",
        "template_program": "program_1", "template_arguments": {"object": {}, "attribute": {"0": "x"}}, "answer": answer,
    }  # fmt: skip


def test_mimic_cxr_vqa(tmp_path: Path) -> None:
    rows = [
        vqa("Is there edema?", ["yes"]),
        vqa("List all findings.", ["edema", "atelectasis"]),
        vqa("List all tubes.", []),
        vqa("Is there edema?", ["yes"]),
    ]
    for name, found in (
        ("train", rows),
        ("valid", []),
        ("test", [vqa("Is it an AP view?", "no", "test", OTHER, OTHER_PATH)]),
    ):
        put(tmp_path / "dataset" / f"{name}.json", json.dumps(found))
    reader, studies = read("mimic_cxr_vqa", tmp_path, images=mimic(tmp_path / "mimic"))
    first, second = studies["50414267"], studies["53189527"]
    assert first.questions == (
        Question("Is there edema?", ("Yes",), ("Yes", "No"), DICOM),
        Question("List all findings.", ("edema", "atelectasis"), (), DICOM),
        Question("List all tubes.", ("None",), (), DICOM),
    )
    assert second.questions == (Question("Is it an AP view?", ("No",), ("Yes", "No"), OTHER),)
    assert [(study.split, study.patient, study.images[0].view) for study in (first, second)] == [
        ("train", "10000032", "PA"), ("test", "10000032", "LATERAL"),
    ]  # fmt: skip
    assert first.images[0].origin == f"mimic-cxr/{DICOM}" and reader.bad == [] and reader.rows == 7  # two of metadata
    assert reader.image_file(first, first.images[0]) == tmp_path / "mimic" / "files" / PATH


def test_medical_diff_vqa_compares_with_an_earlier_study(tmp_path: Path) -> None:
    put(tmp_path / "mimic_all.csv",
        "subject_id,study_id,Atelectasis,No Finding,dicom_id,view,split,study_date,study_order",
        f"10000032,50414267,,1.0,{DICOM},postero-anterior,train,2180-05-06,1.0",
        f"10000032,53189527,1.0,,{OTHER},antero-posterior,train,2180-06-26,2.0")  # fmt: skip
    put(tmp_path / "mimic_pair_questions.csv",
        "study_id,subject_id,ref_id,question_type,question,answer,split",
        "53189527,10000032,50414267,difference,what has changed?,the main image has an additional finding of atelectasis. ,train",
        "53189527,10000032,50414267,presence,is there edema?,no,val",
        "53189527,10000032,50414267,location,where in the image is the atelectasis located?,left lung,test")  # fmt: skip
    reader, studies = read("mimic_diff_vqa", tmp_path, images=mimic(tmp_path / "mimic"))
    before, after = studies["50414267"], studies["53189527"]
    assert before.questions == () and (before.order, after.order) == ("000000000001.0", "000000000002.0")
    assert after.questions == (
        Question("is there edema?", ("No",), ("Yes", "No")),
        Question("where in the image is the atelectasis located?", ("left lung",)),
        Question(
            "what has changed?",
            ("the main image has an additional finding of atelectasis.",),
            earlier="50414267",
        ),
    )
    assert (after.split, before.images[0].view, after.images[0].view) == ("train", "PA", "AP")
    assert reader.image_file(after, after.images[0]) == tmp_path / "mimic" / "files" / OTHER_PATH
    assert reader.bad == [] and reader.remarks == []


def gemex(question: str, answer: Any, **more: Any) -> str:
    """A line of GEMeX."""
    record = {"q_id": 1, "image_path": PATH, "question": question, "type": "disease", "answer": answer, "reason": "It is white.",
              "ori_report": "text", "visual_regions": ["left lung"], "visual_locations": [[1, 2, 3, 4]], **more}  # fmt: skip
    return json.dumps(record)


def test_gemex_has_one_file_for_each_form_of_question(tmp_path: Path) -> None:
    choices = ["A: Edema", "B: Fracture", "C: Mass", "D: Effusion"]
    put(tmp_path / "closed_ended_question.jsonl", gemex("Is there an effusion?", "Yes."))
    put(tmp_path / "open_ended_question.jsonl", gemex("How large is it?", "Small."))
    put(tmp_path / "single_choice_question.jsonl", gemex("What is it?", "D", choices=choices))
    put(tmp_path / "multi_choice_question.jsonl", gemex("What are they?", ["A", "D"], choices=choices))
    images = mimic(tmp_path / "mimic")
    put(
        images / "mimic-cxr-2.0.0-split.csv",
        "dicom_id,study_id,subject_id,split",
        f"{DICOM},50414267,10000032,validate",
    )
    reader, studies = read("gemex", tmp_path, images=images)
    (study,) = studies.values()
    options = ("Edema", "Fracture", "Mass", "Effusion")
    assert study.questions == tuple(
        Question(text, answers, choice, DICOM, reason="It is white.")
        for text, answers, choice in (
            ("Is there an effusion?", ("Yes",), ("Yes", "No")),
            ("What are they?", ("Edema", "Effusion"), options),
            ("How large is it?", ("Small.",), ()),
            ("What is it?", ("Effusion",), options),
        )
    )
    assert (study.id, study.patient, study.split, study.images[0].view) == ("50414267", "10000032", "validate", "PA")
    assert study.images[0].boxes == () and reader.bad == []


STUDY = "1.2.840.1"
IMAGES = [f"../deid_png/P1/A1/studies/{STUDY}/series/1.2.{n}/instances/1.2.840.{n}.png" for n in (7, 8)]
REX = {"PatientID": "P1", "AccessionNumber": "A1", "StudyInstanceUid": STUDY, "PatientSex": "F", "PatientAge": "061Y",
       "StudyDate": "20200102", "Indication": "cough", "Comparison": "None.", "Findings": "Small left effusion.",
       "Impression": "Effusion.", "ImagePath": IMAGES, "ImageViewPosition": ["POSTERO_ANTERIOR", "LATERAL"]}  # fmt: skip


def rexgradient(root: Path, **changes: str) -> Path:
    other = json.loads(json.dumps(REX).replace(STUDY, "1.2.840.2").replace("1.2.840.7", "1.2.840.9"))
    other |= {"ImagePath": other["ImagePath"][:1], "ImageViewPosition": None}  # views that are not there
    put(
        root / "metadata" / "train_metadata_view_position.json",
        json.dumps({"P1_A1": {**REX, **changes}, "P1_A2": other}, indent=1),
    )
    for name in ("valid", "test"):
        put(root / "metadata" / f"{name}_metadata_view_position.json", "{}")
    for path in IMAGES:
        write_image(root / path.removeprefix("../"))
    return root


def test_rexgradient(tmp_path: Path) -> None:
    reader, studies = read("rexgradient", rexgradient(tmp_path))
    study = studies[STUDY]
    assert (study.findings, study.impression, study.indication, study.comparison) == (
        "Small left effusion.", "Effusion.", "cough", "None.",
    )  # fmt: skip
    assert (study.age, study.sex) == ("61", "female")
    silent = rexgradient(tmp_path / "b", Findings="None", Impression="None.")
    assert read("rexgradient", silent)[1][STUDY].findings == ""  # the published word for a section that is not there
    assert (study.patient, study.split, study.order, study.labels["Pleural Effusion"]) == (
        "P1",
        "train",
        "000020200102",
        1,
    )
    assert [(image.id, image.view) for image in study.images] == [("1.2.840.7", "PA"), ("1.2.840.8", "LATERAL")]
    assert [image.view for image in studies["1.2.840.2"].images] == [""]
    assert all(reader.image_file(study, image).is_file() for image in study.images) and reader.bad == []  # type: ignore[union-attr]


def test_rexvqa_asks_about_the_studies_of_rexgradient(tmp_path: Path) -> None:
    question = {**REX, "study_id": "P1_A1", "question": "Which finding is present?", "task_name": "presence",
                "options": ["A. Edema.", "B. Left pleural effusion.", "C. Mass.", "D. None of these."], "correct_answer": "B",
                "correct_answer_explanation": "The left angle is blunt.", "category": "pleura"}  # fmt: skip
    images, unclear = rexgradient(tmp_path / "images"), {**question, "correct_answer": "E"}
    put(tmp_path / "vqa" / "metadata" / "train_vqa_data.json", json.dumps({"q1": question, "q2": unclear}))
    for name in ("valid", "test"):
        put(tmp_path / "vqa" / "metadata" / f"{name}_vqa_data.json", "{}")
    reader, studies = read("rexvqa", tmp_path / "vqa", images=images)
    options = ("Edema", "Left pleural effusion", "Mass", "None of these")
    assert studies[STUDY].questions == (
        Question("Which finding is present?", ("Left pleural effusion",), options, reason="The left angle is blunt."),
    )
    assert studies["1.2.840.2"].questions == () and studies[STUDY].images[0].origin == "rexgradient/1.2.840.7"
    assert [(Path(where).name, what) for where, what in reader.bad] == [
        ("train_vqa_data.json:2", "an answer that is none of the options")
    ]


def voc(name: str, *boxes: tuple[str, int, int, int, int]) -> str:
    objects = "".join(
        f"<object><name>{label}</name><difficult>0</difficult><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax>"
        f"<ymax>{d}</ymax></bndbox></object>"
        for label, a, b, c, d in boxes
    )
    size = "<size><width>100</width><height>200</height><depth>1</depth></size>"
    return f"<annotation><folder>JPEGImages</folder><filename>{name}.jpg</filename>{size}{objects}</annotation>"


def test_cxr_al14_has_a_file_of_boxes_for_each_image(tmp_path: Path) -> None:
    root = tmp_path / "CXR-AL14-2022"
    put(root / "Annotations" / "00001.xml", voc("00001", ("Effusion", 10, 20, 60, 120), ("Venipuncture", 0, 0, 50, 50)))
    put(root / "Annotations" / "00002.xml", voc("00002"))
    put(root / "ImageSets" / "Main" / "train.txt", "00001")
    put(root / "ImageSets" / "Main" / "test.txt", "00002")
    write_image(root / "JPEGImages" / "00001.jpg", 100, 200)
    reader, studies = read("cxr_al14", tmp_path)
    first, second = studies["00001"], studies["00002"]
    assert [(box.label, corners(box)) for box in first.images[0].boxes] == [
        ("Pleural Effusion", (0.1, 0.1, 0.6, 0.6)), ("Venipuncture", (0.0, 0.0, 0.5, 0.25)),
    ]  # fmt: skip
    assert (first.labels["Pleural Effusion"], first.labels["Pneumothorax"], first.tags) == (
        1,
        0,
        ("Effusion", "Venipuncture"),
    )
    assert (second.images[0].boxes, set(second.labels.values()), first.split, second.split) == (
        (),
        {0},
        "train",
        "test",
    )
    assert reader.image_file(first, first.images[0]).is_file() and reader.bad == []  # type: ignore[union-attr]


def test_radgraph_labels_are_the_observations_of_reports(tmp_path: Path) -> None:
    entities = {
        str(number): {"tokens": tokens, "label": label, "start_ix": 1, "end_ix": 1, "relations": [["located_at", "1"]]}
        for number, (tokens, label) in enumerate(
            [
                ("left", "ANAT-DP"),
                ("Effusion", "OBS-DP"),
                ("pneumothorax", "OBS-DA"),
                ("pneumonia", "OBS-U"),
                ("small", "OBS-DP"),
            ]
        )
    }
    text = "FINAL REPORT FINDINGS : Small left Effusion . No pneumothorax . IMPRESSION : Possible pneumonia ."
    graph = {"text": text, "entities": entities, "data_source": "MIMIC-CXR", "data_split": "inference"}
    put(tmp_path / "MIMIC-CXR_graphs.json", json.dumps({"p10/p10000032/s50414267.txt": graph}))
    images = mimic(tmp_path / "mimic")
    put(images / "mimic-cxr-2.0.0-split.csv", "dicom_id,study_id,subject_id,split", f"{DICOM},50414267,10000032,train")
    reader, studies = read("radgraph", tmp_path, images=images)
    (study,) = studies.values()
    assert study.labels == {"Pneumonia": -1, "Pneumothorax": 0, "Pleural Effusion": 1}
    assert (study.split, study.patient, study.tags, reader.bad) == ("train", "10000032", (), [])


@pytest.mark.parametrize(
    ("answer", "options", "right"),
    [
        ("B", ["A. One", "B. Two"], ["Two"]),
        ("(B) two", ["(A) One", "(B) Two"], ["Two"]),
        ("A, C", ["A) x", "B) y", "C) z"], ["x", "z"]),
        ("A and B", ["x", "y", "z"], ["x", "y"]),
        ("two.", ["One.", "Two."], ["Two"]),
        ("A: Two", ["A: Two", "B: A"], ["Two"]),
        ("['x', 'z']", ["x", "y", "z"], ["x", "z"]),
    ],
)  # fmt: skip
def test_answers_name_options_by_letter_or_words(answer: str, options: list[str], right: list[str]) -> None:
    found = read_question("Which?", answer, json.dumps(options))
    assert found is not None and found["answers"] == right


@pytest.mark.parametrize(
    ("answer", "options", "why"),
    [
        ("", "", "a question without an answer"),
        ("E", '["x", "y"]', "an answer that is none of the options"),
        ("three", '["x", "y"]', "an answer that is none of the options"),
        ("[]", '["x", "y"]', "an answer that is none of the options"),
        ("x", '["x", "X."]', "a question with two options of the same words"),
        ("x", '["x"]', "a question with 1 options; from 2 to 7 can be asked"),
    ],
)
def test_questions_that_cannot_be_asked_are_named(answer: str, options: str, why: str) -> None:
    with pytest.raises(ValueError) as caught:
        read_question("Which?", answer, options)
    assert str(caught.value) == why
    assert read_question("", answer, options) is None  # a row without a question


def test_the_plan_knows_what_asks_questions() -> None:
    asking = {entry.name for entry in registry.entries() if "questions" in entry.gives()}
    assert asking == {"mimic_cxr_vqa", "mimic_diff_vqa", "gemex", "rexvqa"}
