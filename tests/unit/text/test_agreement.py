"""Rewards, evaluation and the filter read the same options, labels and boxes out of any reply."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diagcot.cot.filtration import rules
from diagcot.cot.settings import FilterSettings
from diagcot.data.study import CHEXPERT_LABELS
from diagcot.evaluation.scores.answers import closed_metrics, open_metrics
from diagcot.evaluation.scores.classification import classification_metrics
from diagcot.evaluation.scores.grounding import grounding_metrics, pixel_metrics
from diagcot.metrics.intervals import Bootstrap
from diagcot.rewards import registry
from diagcot.rewards.score import Reference
from diagcot.tasks.predictions import Prediction
from diagcot.tasks.prompts import classification_answer, grounding_answer, reasoned
from diagcot.text.labels import listed
from diagcot.text.layout import first_answer, last_answer
from tests.unit.cot.cot_traces import trace

OPTIONS = list(CHEXPERT_LABELS[4:8])


def texts(*pieces):
    return st.lists(st.sampled_from(pieces), max_size=7).map("".join)


def rewarded(name, output, truth, *options):
    reward = registry.reward(name, {"closed": "checked", "open": "checked"}.get(name, "matched"))
    return reward([output], [Reference(truth, options)])[0]


def prediction(task, output, reference, read, **about):
    return Prediction(
        id="d/s", study="d/s", task=task, dataset="d", model="m", output=output, answer=read(output),
        reference=read(reference), finish="stop", phantom=True, images=[], about=about,
    )  # fmt: skip


def value(metrics, name):
    return Bootstrap(["d/s"], 100).value(metrics[name])


@settings(deadline=None)
@given(
    texts(
        "A", "B", "b) ", ")", " ", "C) ", "✅", "❌", "the answer is ", ". ", "or ", "**", "A small ", "no ", *OPTIONS
    ),
    st.sampled_from("ABCD"),
)
def test_options(answer, letter):
    gold = "\n".join(
        reasoned(f"about {option}", f"{option}) {'✅' if option == letter else '❌'}") for option in "ABCD"
    )
    gold += "\n" + reasoned("so", f"{letter}) ✅")
    output = reasoned("first", "A) ❌") + reasoned("second", answer)
    row = prediction("single", output, gold, last_answer, options=OPTIONS, option=letter)
    assert rewarded("closed", output, gold, *OPTIONS)["accuracy"] == value(closed_metrics([row]), "single_accuracy")


@settings(deadline=None)
@given(
    texts(
        "Edema", "enlarged heart", ", ", ";", "\n", "no effusion", "✅", ": ", "[", "]", "and ", "nodule", "**", "\n- "
    )
)
def test_findings(answer):
    gold = "\n".join(
        [reasoned("a", "Differential Diagnoses: [Edema, Cardiomegaly]"), reasoned("b", "Edema ✅"),
         reasoned("c", "Cardiomegaly ✅"), reasoned("d", "Edema, Cardiomegaly")]
    )  # fmt: skip
    output = reasoned("first", "Differential Diagnoses: [Edema]") + reasoned("second", answer)
    row = prediction("open", output, gold, last_answer)
    score, metrics = rewarded("open", output, gold)["accuracy"], open_metrics([row])
    repeats = len(listed(row.answer)) - len(set(listed(row.answer)))
    assert (score > 0) == (value(metrics, "open_f1") > 0) and score <= value(metrics, "open_f1") + 1e-9
    assert (score == 1) == (value(metrics, "open_exact") == 1 and not repeats)


@settings(deadline=None)
@given(texts("Edema", "fracture", ", ", "and ", ": ", "No Finding", "no abnormality ", ".", "no ", "\n- ", "**", "x"))
def test_labels(answer):
    truth, output = classification_answer(["Edema"]), reasoned("first", answer)
    row = prediction("classification", output, truth, first_answer, labels={"Edema": 1})
    (score,) = registry.reward("classification", "curriculum")([output], [Reference(truth)])
    f1 = value(classification_metrics([row], []), "classification_f1")
    assert (score["labels"] > 0) == (f1 > 0) and (score["labels"] == pytest.approx(1)) == (f1 == 1)
    bad = rules.fault(trace(task="classification", reference=truth, answer=first_answer(output)), FilterSettings())
    assert (bad is None or bad.rule != "labels_differ") if f1 == 1 else bad is not None  # other rules may drop it, too


BOX = "<box>(100,100),(400,500)</box>"


@settings(deadline=None)
@given(texts(BOX, "<box>(600,100),(900,500)</box>", "<box>", "No regions detected.", "seen ", "0.1", "</box>", ", "))
def test_boxes(answer):
    for truth in ("The detected edema regions are: " + BOX, grounding_answer("edema", [])):
        output = reasoned("first", answer)
        row = prediction("grounding", output, truth, first_answer)
        assert rewarded("grounding", output, truth)["iou"] == value(grounding_metrics([row]), "iou")
        reached = rules.fault(trace(task="grounding", reference=truth, answer=row.answer), FilterSettings(iou=1.0))
        assert (reached is None) == (value(grounding_metrics([row]), "iou") == 1)


@settings(deadline=None)
@given(
    st.sampled_from(["[0, 0, 10, 20]", "[0,0,10,10]", "at [ 5, 5, 1, 1 ]", "[1, 2, 3]", "nowhere", "[-1, 0, 1.5, 9]"])
)
def test_boxes_in_pixels(answer):
    truth, output = "[0, 0, 10, 20]", reasoned("first", answer)
    row = prediction("grounding_pixels", output, truth, first_answer)
    assert rewarded("grounding_pixels", output, truth)["iou"] == value(pixel_metrics([row]), "iou_pixels")
