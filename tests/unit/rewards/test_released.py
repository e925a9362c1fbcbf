"""The published rewards: what the released functions return, on a table of random words and, where it lies, on 2,000 rows."""

import json
from pathlib import Path

import pytest

from diagcot.evaluation.scores.grounding import grounding_metrics
from diagcot.metrics.intervals import Additive, Bootstrap
from diagcot.metrics.repetition import variety, variety_as_released
from diagcot.rewards import registry
from diagcot.rewards.released import classification, cxmind, grounding, layout
from diagcot.rewards.released.porter import stem
from diagcot.rewards.score import Reference
from diagcot.tasks.predictions import Prediction
from diagcot.tasks.prompts import classification_answer, reasoned

TABLE = Path(__file__).with_name("released.jsonl")
"""Replies of random words; `released` was computed with the published functions, not with this project's."""
PUBLISHED = Path(__file__).resolve().parents[4] / "shared" / "data" / "reward_oracle"
needs_rows = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="no ../shared/data/reward_oracle")

MODES = {
    "classification": ("classification", "released"),
    "grounding": ("grounding", "released"),
    "graded": ("grounding", "graded"),
    "closed": ("closed", "released"),
    "open": ("open", "released"),
}
PUBLISHED_NAMES = {
    "classification": {"format": "format", "labels": "classification", "repetition": "repetition_penalty"},
    "grounding": {"format": "format_reward", "iou": "iou_reward"},
    "graded": {"format": "format_reward", "iou": "iou_reward"},
    "closed": {"format": "format", "accuracy": "acc", "process": "process", "reason": "reason"},
    "open": {"format": "format", "accuracy": "f1", "process": "process", "reason": "reason"},
}


def scored(name, output, answer, progress=0.0):
    return registry.reward(*MODES[name])([output], [Reference(answer)], progress)[0]


@pytest.mark.parametrize("name", MODES)
def test_the_table(name):
    rows = [row for row in map(json.loads, TABLE.read_text(encoding="utf-8").splitlines()) if row["name"] == name]
    assert len(rows) >= 18
    for row in rows:
        score = scored(name, row["output"], row["answer"])
        assert score == pytest.approx(row["released"], abs=1e-6), row


@needs_rows
@pytest.mark.parametrize("name", MODES)
def test_the_published_rows(name):
    file = PUBLISHED / f"{'grounding_graded' if name == 'graded' else name}.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 400
    names = {"overall": "overall", **PUBLISHED_NAMES[name]}
    for number, row in enumerate(rows, 1):
        score = scored(name, row["output"], row["answer"])
        assert set(score) == set(names)
        expected = {part: row["released"][theirs] for part, theirs in names.items()}
        assert score == pytest.approx(expected, abs=1e-6), f"{file.name}:{number}"


@pytest.mark.parametrize("name", MODES)
def test_progress_changes_nothing(name):
    row = next(row for row in map(json.loads, TABLE.read_text(encoding="utf-8").splitlines()) if row["name"] == name)
    assert scored(name, row["output"], row["answer"], 1.0) == scored(name, row["output"], row["answer"])


BOX = "<box>(100,100),(400,500)</box>"
TWO = f"The detected lung opacity regions are: Lung Opacity: {BOX}, Lung Opacity: <box>(600,100),(900,500)</box>"
NONE = "The detected lung opacity regions are: No lung opacity regions detected."


@pytest.mark.parametrize(
    ("output", "answer", "new", "old"),
    [
        (reasoned("x", "<box>(100,100),(400,480)</box> <box>(950,900),(999,999)</box>"), TWO, 1.0, 1.0),
        (BOX, f"The regions are: {BOX}", 0.0, 0.0),  # no tags
        (reasoned("x", "<box>(400,500),(100,100)</box>"), f"At {BOX}", 1.0, 1.0),  # corners reversed
        (reasoned("x", "<box>(100,100),(400,1001)</box>"), f"At {BOX}", 0.2, 0.2),  # beyond 1000: no box
        (reasoned("x", "<box>( 100,100),(400,500)</box>"), f"At {BOX}", 0.1, 0.1),  # a blank: no box
        (reasoned("x", "There is lung opacity."), NONE, 0.8, 0.8),  # both are the phantom box
        (reasoned("x", f"At {BOX}") + "\n", f"At {BOX}", 1.0, 1.0),
        (reasoned("x", "<box>(0,0),(100,100)</box>"), NONE, 1.0, 1.0),  # the phantom box itself
        (reasoned("x", "<box>(1,2),(3</box>"), f"At {BOX}", 0.1, 0.1),
        (reasoned("x", f"At {BOX}"), "a normal film", 0.2, 0.24),  # a false alarm
        (reasoned("x", "normal"), "a normal film", 1.0, 0.84),
        (reasoned("x", "<box>(1.2.3,0),(1,1)</box>"), "a normal film", 0.2, 0.2),
    ],
)
def test_boxes_by_hand(output, answer, new, old):
    assert scored("grounding", output, answer)["overall"] == pytest.approx(new)
    assert scored("graded", output, answer)["overall"] == pytest.approx(old)


@pytest.mark.parametrize(
    ("mean", "value"),
    [(1.0, 1.0), (0.95, 1.0), (0.8, 0.85), (0.6, 0.55), (0.4, 0.3), (0.2, 0.15), (0.05, 0.075), (0, 0.02)],
)
def test_the_broken_line_of_the_earlier_release(mean, value):
    assert grounding._graded(mean, mean, 1) == pytest.approx(min(1, value + 0.05 * (mean > 0.8)))
    assert grounding._graded(mean, 1.0, 2) == pytest.approx(min(1, 0.7 * value + 0.3 + 0.05 * (mean > 0.8)))


def test_labels_with_the_faults_of_the_release():
    sentence = "The label of this X-ray image is:"
    assert classification.labels(f"{sentence} Edema,") == {"edema", "enlarged cardiomediastinum"}
    assert classification.labels(f"{sentence} Edema, No Finding") == {"no finding"}
    assert classification.labels(f"{sentence} pleural") == {"pleural effusion"}
    assert classification.labels("No significant abnormalities were found in this X-ray.") == {"no finding"}


PERFECT = 0.9 * (0.7 + 0.3 / (1 + 2.718281828459045**-5)) + 0.1


@pytest.mark.parametrize(
    ("lines", "value"),
    [
        (["a long first line", "another long line"], PERFECT),
        ([f"line of number {n}" for n in "abcdef"] + ["line of number a"], PERFECT),  # two equal lines cost nothing
        (["one line again and again"] * 10, PERFECT * 0.6),  # nine repeats in a row
        (["one line again", "and one more line"] * 8, PERFECT * 0.7),  # few distinct lines
        (["short line"] * 10, PERFECT),  # ten characters are too few to be compared
        (["the lung, the heart and the chest"] * 10, PERFECT),  # common words
    ],
)
def test_repetition_by_hand(lines, value):
    answer = classification_answer(["Edema"])
    think = "\n".join(["first of all this", *lines, "and last of all this"])
    assert scored("classification", reasoned(think, answer), answer)["overall"] == pytest.approx(value)


def test_cx_mind_edges():
    step = "<think>blunt angle</think><answer>B) ✅</answer>"
    both_marks = "<think>blunt angle</think><answer>B) ✅❌</answer>"
    assert scored("closed", both_marks, step)["process"] == 0.5
    assert scored("closed", "\n" + step, step)["format"] == 0 and scored("closed", step + "\n", step)["format"] == 1
    assert cxmind.option("The answer is C") == "E" and cxmind.option("final: D") == "F"
    gold = "<think>a</think><answer>Edema</answer>"
    assert scored("open", gold + "<answer>Fracture</answer>", gold)["accuracy"] == 0
    assert scored("open", gold.replace("<think>", "< think >"), gold)["format"] == 1
    assert scored("closed", step, "B")["accuracy"] == 0  # a reference that is no trace


def test_tags_are_in_lower_case_and_nested_ones_are_overlooked():
    assert (
        layout.answer("<Answer>x</Answer>") is None and layout.answer("<answer> x </answer><answer>y</answer>") == "x"
    )
    assert layout.is_single("<think><think>a</think></think>b</think><answer>x</answer>")
    assert not layout.is_single(reasoned("a", "x") + "\n")


def report(mode, output, truth):
    return registry.reward("report", mode)([output], [Reference(truth)])[0]["overall"]


def test_the_spine_reward_takes_the_first_impression_of_the_answer_alone():
    answer = reasoned("a", "Findings : nothing . Impression : disc bulge . Impression : no stenosis .")
    assert report("spine", answer, "disc bulge . Impression : no stenosis .") == pytest.approx(0.91, abs=1e-6)
    whole = "findings : nothing . impression : disc bulge ."
    assert report("spine", reasoned("a", whole), whole) < 0.7  # the reference is not split
    assert report("spine", reasoned("a", "a disc bulge at one level"), "a disc bulge at one level") == pytest.approx(
        0.91, abs=1e-6
    )


def test_the_report_reward_reads_tags_in_lower_case_and_the_whole_reference():
    assert report("released", "<think>a</think><Answer>disc bulge</Answer>", "disc bulge") == 0.1
    assert report("released", reasoned("a", "disc bulge"), "<answer>disc bulge</answer> of old age") < 0.9


def test_variety_does_not_split_at_line_ends_as_released():
    lines = "the heart is large\nthe heart is large\nthe heart is large"
    assert variety_as_released(lines) == 1 > variety(lines)  # one sentence
    once, twice = "a b. a b. c", "a b\na b. c"
    assert variety_as_released(once) == variety(once) < variety_as_released(twice)


@pytest.mark.parametrize(
    ("words", "same"),
    [
        (("caresses", "caress", "caressed"), True), (("opacity", "opacities"), True), (("tried", "tries", "try"), True),
        (("slight", "slightly"), False), (("sinus", "sinuses"), False), (("pathology", "pathologic"), True),
        (("additional", "additionally", "addition"), True), (("general", "generate"), True), (("dying", "die"), True),
        (("hopped", "hop"), True), (("filed", "file"), True), (("agreed", "agree"), True), (("sky", "skies"), True),
    ],
)  # fmt: skip
def test_stems_of_rouge(words, same):
    assert (len({stem(word) for word in words}) == 1) == same


def test_likeness_by_hand():
    # 2 of 3 words, the third has the same stem; BLEU's reference has a full stop more
    assert cxmind.likeness("the heart enlarging", "the heart enlarged .") == pytest.approx(
        0.3 * (2 / 3) * 2.718281828459045 ** (1 - 4 / 3) + 0.7 * 1.0
    )
    assert cxmind.likeness("", "the heart") == 0 and cxmind.likeness("a b.", "a b.") == pytest.approx(1)


def predicted(output, reference):
    return Prediction(
        id=output, study=output, task="grounding", dataset="d", model="m", output=output, answer="", reference=reference,
        finish="stop", phantom=True, images=[],
    )  # fmt: skip


def test_the_published_iou_is_the_mean_over_the_pairs_of_all_samples():
    box = "<box>(0,0),(500,500)</box>"
    far = "<box>(600,600),(900,900)</box>"
    rows = [
        predicted(reasoned(f"{far} may be one", box), box),  # boxes of the answer block alone: IoU 1
        predicted(f"{box} {far}", f"{box} {far}"),  # four pairs: 1, 0, 0, 1
        predicted(box.replace(",", ", "), box),  # a blank: no box, left out
        predicted("nothing", box),
        predicted(reasoned("a", box), "No lung opacity regions detected."),
    ]
    metric = grounding_metrics(rows)["iou_as_released"]
    assert isinstance(metric, Additive)
    assert Bootstrap([row.id for row in rows], 100).value(metric) == pytest.approx(3 / 5)
