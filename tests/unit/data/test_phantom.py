"""Phantoms: images follow findings, the same study is the same image, and the tree is MIMIC-CXR-JPG's."""

import csv
import gzip
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from diagcot.data.phantom.drawing import draw
from diagcot.data.phantom.findings import DEVICES, SIDES, ZONES, Effusion, Findings, Place
from diagcot.data.phantom.patients import sample, visits
from diagcot.data.phantom.tree import write_tree
from diagcot.data.pixels import PHANTOM_COMMENT
from diagcot.data.readers.mimic_cxr import LABELS, METADATA, SPLIT, MimicCxr
from diagcot.data.seeded import generator

NORMAL = Findings()
SIDE = st.sampled_from(SIDES)
PLACE = st.builds(Place, SIDE, st.sampled_from(ZONES))
FINDINGS = st.builds(
    Findings,
    heart=st.sampled_from(["normal", "mild", "severe"]),
    opacities=st.sets(PLACE, max_size=3).map(lambda places: tuple(sorted(places))),
    nodules=st.sets(PLACE, max_size=2).map(lambda places: tuple(sorted(places))),
    atelectasis=st.sets(SIDE).map(lambda sides: tuple(sorted(sides))),
    edema=st.booleans(),
    effusions=st.dictionaries(SIDE, st.sampled_from(["small", "large"])).map(
        lambda sizes: tuple(Effusion(side, size) for side, size in sorted(sizes.items()))
    ),
    pneumothorax=st.sampled_from(["", *SIDES]),
    device=st.sampled_from(["", *DEVICES]),
)


@settings(max_examples=60, deadline=None)
@given(FINDINGS)
def test_tags_hold_all_of_the_findings(findings: Findings) -> None:
    assert Findings.from_tags(findings.tags()) == findings


@settings(max_examples=60, deadline=None)
@given(FINDINGS)
def test_report_names_what_is_there(findings: Findings) -> None:
    text = " ".join(findings.sentences())
    assert ("the lungs are clear" in text) == (
        not (findings.opacities or findings.nodules or findings.atelectasis or findings.edema)
    )
    assert ("there is no pleural effusion" in text) == (not findings.effusions)
    assert ("no acute" in findings.impression()) == findings.normal
    for place in findings.opacities:
        assert str(place) in text


@pytest.mark.parametrize(
    ("tag", "findings"),
    [
        ("Opacity/lung/base/left", Findings(opacities=(Place("left", "lower"),))),
        ("Nodule/lung/upper lobe/right/round", Findings(nodules=(Place("right", "upper"),))),
        (
            "Pleural Effusion/bilateral/small",
            Findings(effusions=(Effusion("left", "small"), Effusion("right", "small"))),
        ),
        ("Cardiomegaly/borderline", Findings(heart="mild")),
        ("Cardiomegaly/moderate", Findings(heart="severe")),
        ("Catheters, Indwelling/right", Findings(device="line")),
        ("Pneumothorax/apex/right/small", Findings(pneumothorax="right")),
        ("Thoracic Vertebrae/degenerative", NORMAL),
        ("normal", NORMAL),
    ],
)
def test_tags_of_iu_xray(tag: str, findings: Findings) -> None:
    assert Findings.from_tags([tag]) == findings


def test_sampled_reports_are_short_and_varied() -> None:
    rng = generator("test")
    drawn = [sample(rng) for _ in range(400)]
    words = [len(" ".join(f.report()).split()) for f in drawn]
    assert 25 <= np.mean(words) <= 45
    assert len(set(drawn)) > 150
    for label in ("Cardiomegaly", "Lung Opacity", "Pleural Effusion", "Pneumothorax", "Support Devices", "No Finding"):
        assert sum(f.labels().get(label, 0) for f in drawn) >= 0.1 * len(drawn), label


def test_a_patient_stays_in_one_split() -> None:
    splits: dict[int, set[str]] = {}
    for visit in visits(500, seed=3):
        splits.setdefault(visit.subject, set()).add(visit.split)
    assert all(len(found) == 1 for found in splits.values())
    assert {split for found in splits.values() for split in found} == {"train", "validate", "test"}


def test_same_study_same_image() -> None:
    first, again = (draw("50000001", NORMAL, "PA", 112, seed=1).jpeg() for _ in range(2))
    assert first == again
    assert first != draw("50000001", NORMAL, "PA", 112, seed=2).jpeg()
    assert first != draw("50000002", NORMAL, "PA", 112, seed=1).jpeg()


def test_images_say_that_they_are_phantoms() -> None:
    image = Pillow.open(io.BytesIO(draw("1", NORMAL).jpeg()))
    assert image.info["comment"] == PHANTOM_COMMENT.encode()
    assert image.size == (112, 112)


@settings(max_examples=25, deadline=None)
@given(FINDINGS, st.sampled_from(["PA", "LATERAL"]), st.sampled_from([64, 112, 200]))
def test_boxes_lie_on_the_image_and_follow_the_findings(findings: Findings, view: str, size: int) -> None:
    image = draw("1", findings, view, size)
    for box in image.boxes:
        assert 0 <= box.x1 < box.x2 <= 1
        assert 0 <= box.y1 < box.y2 <= 1
    if view == "PA":
        shown = {label for label, value in findings.labels().items() if value == 1} - {"No Finding"}
        # A basal band can drown in the fluid of the same side; everything else is always drawn.
        assert shown - {"Atelectasis"} <= {box.label for box in image.boxes} <= shown


@pytest.mark.parametrize(
    ("findings", "label", "brighter"),
    [
        (Findings(heart="severe"), "Cardiomegaly", True),
        (Findings(effusions=(Effusion("left", "small"),)), "Pleural Effusion", True),
        (Findings(opacities=(Place("right", "mid"),)), "Lung Opacity", True),
        (Findings(nodules=(Place("left", "upper"),)), "Lung Lesion", True),
        (Findings(pneumothorax="right"), "Pneumothorax", False),
        (Findings(device="tube"), "Support Devices", True),
    ],
)
def test_the_signal_is_inside_its_box(findings: Findings, label: str, brighter: bool) -> None:
    for study in map(str, range(5)):
        ill, well = (draw(study, f) for f in (findings, replace(findings, **_cleared(findings))))
        (box,) = [b for b in ill.boxes if b.label == label]
        change = np.asarray(ill.image, float) - np.asarray(well.image, float)
        rows, columns = (
            slice(round(low * 112), round(high * 112)) for low, high in ((box.y1, box.y2), (box.x1, box.x2))
        )
        inside = change[rows, columns].mean()
        assert (inside > 15) if brighter else (inside < -8)
        side = [getattr(p, "side", p) for p in (*findings.opacities, *findings.effusions, findings.pneumothorax) if p]
        for name in side:  # the patient's right is on the left of the image
            assert ((box.x1 + box.x2) / 2 < 0.5) == (name == "right")


def _cleared(findings: Findings) -> dict[str, Any]:
    return {name: getattr(NORMAL, name) for name in vars(NORMAL) if name != "heart"} | (
        {"heart": "normal"} if findings.heart != "normal" else {}
    )


def test_hearts_are_wider_when_enlarged() -> None:
    widths = {}
    for heart in ("mild", "severe"):
        boxes = [b for s in range(10) for b in draw(str(s), Findings(heart=heart)).boxes if b.label == "Cardiomegaly"]
        widths[heart] = [b.x2 - b.x1 for b in boxes]
    assert max(widths["mild"]) < min(widths["severe"])


def test_tree_has_the_official_layout_and_is_reproducible(tmp_path: Path) -> None:
    roots = [tmp_path / "a", tmp_path / "b"]
    for root in roots:
        root.mkdir()
        assert write_tree(root, 6, seed=5)
    files = [sorted(p.relative_to(root) for p in root.rglob("*") if p.is_file()) for root in roots]
    assert files[0] == files[1]
    assert all((roots[0] / name).read_bytes() == (roots[1] / name).read_bytes() for name in files[0])
    for table, columns in (("metadata", METADATA), ("split", SPLIT), ("chexpert", LABELS), ("negbio", LABELS)):
        with gzip.open(roots[0] / f"mimic-cxr-2.0.0-{table}.csv.gz", "rt") as rows:
            assert tuple(next(csv.reader(rows))) == columns
    for image in (name for name in files[0] if name.suffix == ".jpg"):
        assert image.match("files/p10/p10??????/s5???????/????????-????????-????????-????????-????????.jpg")


def test_reader_gives_back_what_was_drawn(tmp_path: Path) -> None:
    write_tree(tmp_path, 20, seed=5)
    reader = MimicCxr(tmp_path)
    studies = [study for patient in reader.patients() for study in reader.studies(patient)]
    assert len(studies) == 20
    assert reader.dataset == "phantom"
    for study in studies:
        findings = Findings.from_tags(study.tags)
        assert (study.findings, study.impression) == findings.report()
        assert reader.labels(study) == findings.labels()
        assert [image.view for image in study.images] == ["PA", "LATERAL"]
        frontal = study.images[0]
        assert frontal.phantom and frontal.frontal
        drawn = draw(study.id, findings, "PA", seed=5)
        assert [b.label for b in frontal.boxes] == [b.label for b in drawn.boxes]
        path = reader.image_file(study, frontal)
        assert path is not None and path.read_bytes() == drawn.jpeg()


def test_interrupted_tree_is_reported(tmp_path: Path) -> None:
    assert not write_tree(tmp_path, 5, advance=lambda done: done < 2)
    assert not list(tmp_path.glob("*.csv.gz"))
