"""Named transforms of reports: DiagCoT's line, R2Gen's cleaning and vocabulary, and the 590 published references."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagcot.data.reports.transforms import (
    chain,
    clean_iu,
    clean_mimic,
    findings_alone,
    one_line,
    single_transforms,
    tokens_apart,
)
from diagcot.data.study import Study
from diagcot.jobs import Unit
from diagcot.jobs.testing import context, run_unit
from diagcot.shards import Shard, build, shard_paths
from diagcot.shards.settings import Source
from diagcot.tasks.diagnosis import classification_samples, grounding_samples, report_samples
from diagcot.tasks.prompts import report_answer

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data"

REPORTS = [
    "The heart is normal in size. 2. No effusion..",
    "Heart size is 15.5 cm, (borderline). XXXX/XXXX clear.",
    "Lungs are clear. Heart is normal.",
    "The lungs are clear. The heart is ENLARGED; a pacemaker is seen.",
]
TEXTS = st.one_of(
    st.text(max_size=60),
    st.text("aB12345. _,;'\"-/:()\n<>", max_size=60),
    st.lists(st.sampled_from([*REPORTS, "1. ", ". 3. ", "..", "___", "\n "]), max_size=5).map("".join),
)


def study(findings: str, impression: str = "", split: str = "train", name: str = "1") -> Study:
    return Study("made-up", name, f"p{name}", split, findings, impression)


def training() -> Iterator[Study]:
    return (study(text, "Clear.", name=str(number)) for number, text in enumerate(REPORTS * 3))


def test_fi_keeps_studies_with_both() -> None:
    keep = chain(["fi"], training)
    assert keep(study("a", "b")) == study("a", "b")
    assert keep(study("a")) is None and keep(study("", "b")) is None


def test_the_one_line_layout() -> None:
    """Lower case, tokens apart, one full stop at the end of each part, no de-identification marks (DiagCoT's layout)."""
    changed = one_line(study("Heart:  normal, 3.5 cm (PA).\nPort-A-Cath in   place...", "No change since ___."))
    assert changed is not None
    assert report_answer(changed.findings, changed.impression) == (
        "findings : heart : normal , 3.5 cm ( pa ) . port-a-cath in place . impression : no change since ."
    )


@given(TEXTS, TEXTS)
def test_the_one_line_layout_always_has_its_shape(findings: str, impression: str) -> None:
    changed = one_line(study(findings, impression))
    assert changed is not None and one_line(changed) == changed
    line = report_answer(changed.findings, changed.impression)
    assert line == " ".join(line.split()) and "_" not in line and line == line.lower()
    if changed.findings and changed.impression:
        head, _, rest = line.partition(" . impression : ")
        assert head == f"findings : {changed.findings}" and rest == f"{changed.impression} ."
    assert tokens_apart(line) + " ." == line or not line


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("Lungs are clear. Heart is normal.", "lungs are clear . heart is normal ."),
        ("1. Clear. 2. No effusion. 3. Normal heart.", "clear . no effusion . normal heart ."),
        ("Heart (size) is 15.5 cm, normal!", "heart size is 155 cm normal ."),
        ("Air-space; disease/edema", "air-space diseaseedema ."),
        ("Clear..  Normal.", "clear . normal ."),
        ("Clear. . Normal.", "clear . . normal ."),  # an empty sentence keeps its point, as published
    ],
)
def test_r2gens_cleaning(text: str, cleaned: str) -> None:
    assert clean_iu(text) == cleaned


def test_line_ends_differ_between_the_two_cleanings() -> None:
    text = "Clear.\nNormal heart at ___.  2. No effusion."
    assert clean_mimic(text) == "clear . normal heart at . no effusion ."
    assert clean_iu(text) == "clear normal heart at . . no effusion ."


@given(TEXTS)
def test_cleaning_again_changes_nothing(text: str) -> None:
    for clean in (clean_iu, clean_mimic):
        assert clean(clean(text)) == clean(text)


@pytest.mark.parametrize(
    "names", [["r2gen_iu"], ["r2gen_mimic"], ["one_line", "vocabulary:2"], ["words:4"], ["one_line", "fi"]]
)
@given(findings=TEXTS, impression=TEXTS)
def test_chains_are_deterministic_and_idempotent(names: list[str], findings: str, impression: str) -> None:
    change = chain(names, training)
    once = change(study(findings, impression))
    assert once == chain(names, training)(study(findings, impression))
    assert once is None or change(once) == once


def test_vocabulary_and_length_come_from_the_training_reports() -> None:
    change = chain(["clean_iu", "vocabulary:9", "words:6"], training)
    changed = change(study("The heart is strange. Lungs are clear. Heart is normal.", "Gone."))
    assert changed is not None
    assert (changed.findings, changed.impression) == ("the heart is <unk> . <unk>", "")


def test_names() -> None:
    assert single_transforms(["fi", "r2gen_mimic"]) == ["fi", "clean_mimic", "vocabulary:10", "words:99"]
    assert findings_alone(["r2gen_iu"]) and not findings_alone(["fi", "one_line"])
    for wrong in ("r2gen", "vocabulary", "words:0", "words:x", "fi:2"):
        with pytest.raises(ValueError, match="known: fi, one_line"):
            single_transforms([wrong])
        with pytest.raises(ValueError, match="unknown transform"):
            Source(kind="mimic_cxr", path="x", transforms=[wrong])


@pytest.mark.skipif(not (SHARED / "openi_reports").is_dir(), reason="no ../shared/data/openi_reports")
def test_all_590_published_references_are_reproduced() -> None:
    """From R2Gen's annotation, in its order; the vocabulary is that of its 2,069 training reports."""
    records = [
        record
        for part in json.loads((SHARED / "openi_reports" / "annotation.r2gen_iu_xray.json").read_text()).values()
        for record in part
    ]
    studies = [study(record["report"], split=record["split"], name=record["id"]) for record in records]
    change = chain(["r2gen_iu"], lambda: (one for one in studies if one.split == "train"))
    ours = [changed.findings for one in studies if one.split == "test" and (changed := change(one))]
    published = (SHARED / "metrics_aamn_r2gen590" / "gts.csv").read_text().splitlines()
    assert len(published) == 590
    assert ours == published


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Shard:
    from diagcot.data.phantom.tree import write_tree

    root = tmp_path_factory.mktemp("views")
    (root / "tree").mkdir()
    write_tree(root / "tree", 30, seed=3, size=48)
    ctx = context(root, {"sources": [{"kind": "mimic_cxr", "path": str(root / "tree")}], "image_size": 48})
    run_unit(build, Unit("00000"), ctx)
    return Shard(shard_paths(ctx.output)[0])


def test_one_sample_of_a_study_shows_all_its_images(shard: Shard) -> None:
    by_image = list(report_samples(shard, "x", "train"))
    by_study = list(report_samples(shard, "x", "train", "study"))
    assert len({sample.study for sample in by_image}) == len(by_study) < len(by_image)
    for sample in by_study:
        alone = [one for one in by_image if one.study == sample.study]
        assert sample.images == tuple(ref for one in alone for ref in one.images)
        assert sample.prompt == "<image>" * (len(alone) - 1) + alone[0].prompt
        assert {one.answer for one in alone} == {sample.answer} and sample.id == sample.study


@pytest.mark.parametrize("views", ["image", "study"])
def test_sample_ids_are_unique_over_tasks(shard: Shard, views: str) -> None:
    ids = [s.id for s in report_samples(shard, "x", "train", views)]  # type: ignore[arg-type]
    ids += [s.id for s in classification_samples(shard, "x", "train", views)]  # type: ignore[arg-type]
    ids += [s.id for s in grounding_samples(shard, "x", "train")]
    assert len(set(ids)) == len(ids) > 50
