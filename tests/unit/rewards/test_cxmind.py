"""CX-Mind's rewards and gate: the published maxima, and the holes that the checked mode closes."""

import json

import pytest

from diagcot.metrics.sets import f1
from diagcot.rewards import cxmind, registry
from diagcot.rewards.gate import Gate
from diagcot.rewards.score import Reference
from diagcot.text import options


def trace(*steps):
    return "\n".join(f"<think>{think}</think>\n<answer>{answer}</answer>" for think, answer in steps)


CLOSED = trace(
    ("the heart is not large", "A) ❌"),
    ("fluid blunts the left angle", "B) ✅"),
    ("no line of a collapsed lung", "C) ❌"),
    ("so it is the fluid", "B) ✅"),
)
OPEN = trace(
    ("the base is dense", "Differential Diagnoses: [Edema, Pleural Effusion, Pneumonia]"),
    ("lines reach the edge", "Edema ✅"),
    ("the angle is blunt", "Pleural Effusion ✅"),
    ("no air within it", "Pneumonia ❌"),
    ("both are there", "Edema, Pleural Effusion"),
)
MODES = ["released", "checked"]


def one(name, mode, output, gold):
    return registry.reward(name, mode)([output], [Reference(gold)])[0]


def stable(score):
    return Gate().apply([score])[0]["overall"]


@pytest.mark.parametrize("mode", MODES)
def test_a_perfect_closed_trace_earns_2_5_stable_and_1_unstable(mode):
    score = one("closed", mode, CLOSED, CLOSED)
    assert score["overall"] == pytest.approx(1.0)
    assert stable(score) == pytest.approx(2.5)


def test_a_perfect_open_trace_earns_2_2_stable_and_1_unstable():
    score = one("open", "checked", OPEN, OPEN)
    assert score["overall"] == pytest.approx(1.0)
    assert stable(score) == pytest.approx(2.2)


def test_as_released_the_open_gold_trace_itself_is_compared_with_the_wrong_think():
    score = one("open", "released", OPEN, OPEN)  # "edema ✅" never equals "edema": the summary stands in
    assert 1 <= stable(score) < 2.2


def test_a_single_pair_hacks_the_released_process_reward_only():
    hack = trace(("well", "B) ✅"))
    assert one("closed", "released", hack, CLOSED)["process"] == 0.5
    assert one("closed", "checked", hack, CLOSED)["process"] == 0


def test_absent_diseases_hack_the_released_process_reward_only():
    hack = trace(("a", "Fracture"), ("b", "Fracture ❌"), ("c", "Nothing"))
    assert one("open", "released", hack, OPEN)["process"] == 0.2
    assert one("open", "checked", hack, OPEN)["process"] == 0


def test_empty_and_copied_thinks_earn_no_format():
    for think in ("", "same"):
        output = trace((think, "A) ❌"), (think, "C) ❌"), (think, "B) ✅"))
        assert one("closed", "released", output, CLOSED)["format"] == 1
        score = one("closed", "checked", output, CLOSED)
        assert score["format"] == score["process"] == 0


@pytest.mark.parametrize(("text", "letter"), [("The answer is C", "C"), ("final: D", "D"), ("b) x", "B")])
def test_option_letters(text, letter):
    assert options.named(text) == letter


@pytest.mark.parametrize("last", ["B) ❌", "A) or B) ✅"])
def test_a_last_pair_that_rejects_its_option_or_names_two_is_no_choice(last):
    output = CLOSED.rsplit("<think>", 1)[0] + trace(("so it is the fluid", last))
    assert one("closed", "checked", output, CLOSED)["accuracy"] == 0


def test_other_words_for_a_disease_count_as_in_evaluation():
    output = OPEN.rsplit("<think>", 1)[0] + trace(("both are there", "edema; pleural fluid"))
    assert one("open", "checked", output, OPEN)["accuracy"] == 1
    assert one("open", "released", output, OPEN)["accuracy"] == pytest.approx(0.5)


def test_a_wrong_option_earns_no_accuracy_and_no_reason():
    score = one("closed", "checked", CLOSED.rsplit("<think>", 1)[0] + trace(("so it is the heart", "A) ✅")), CLOSED)
    assert score["accuracy"] == score["reason"] == 0 and score["overall"] == pytest.approx(0.1)


def test_the_paper_value_of_the_process_reward():
    assert cxmind.closed(CLOSED, Reference(CLOSED), process=0.2)["process"] == 0.2


def test_the_ablations_leave_terms_out():
    assert one("closed", "paper", CLOSED, CLOSED)["process"] == 0.2
    for name, trace_ in (("closed", CLOSED), ("open", OPEN)):
        think, answer = one(name, "think", trace_, trace_), one(name, "answer", trace_, trace_)
        assert think["process"] == answer["process"] == answer["reason"] == 0 < think["reason"]


ATTACKS = {
    "empty": "",
    "markers without reasoning": trace(("", "A) ❌"), ("", "B) ✅"), ("", "C) ❌"), ("", "B) ✅")),
    "one think for all": trace(*[("because", answer) for answer in ("A) ❌", "B) ✅", "C) ❌", "B) ✅")]),
    "the answer alone": trace(("well", "B) ✅")),
    "both marks": trace(("a", "A) ❌"), ("b", "B) ✅❌"), ("c", "C) ❌"), ("d", "B) ✅")),
    "an option left out": trace(("a", "A) ❌"), ("b", "B) ✅"), ("d", "B) ✅")),
    "the right option called wrong": trace(("a", "A) ❌"), ("b", "B) ❌"), ("c", "C) ❌"), ("d", "B) ✅")),
    "words between the pairs": CLOSED.replace("\n<think>", "\nso <think>"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_attack_on_closed_earns_the_process(attack):
    assert one("closed", "checked", ATTACKS[attack], CLOSED)["process"] == 0


OPEN_ATTACKS = {
    "markers without reasoning": OPEN.replace("lines reach the edge", "").replace("the angle is blunt", ""),
    "a present one left out": OPEN.replace(
        "<think>the angle is blunt</think>\n<answer>Pleural Effusion ✅</answer>\n", ""
    ),
    "one that was never listed": OPEN.replace("Pneumonia ❌", "Fracture ❌"),
    "one judged twice": OPEN.replace("Pneumonia ❌", "Edema ✅"),
    "a wrong mark": OPEN.replace("Pneumonia ❌", "Pneumonia ✅"),
    "empty": "",
}


@pytest.mark.parametrize("attack", OPEN_ATTACKS)
def test_no_attack_on_open_earns_the_process(attack):
    assert one("open", "checked", OPEN, OPEN)["process"] == 0.2
    assert one("open", "checked", OPEN_ATTACKS[attack], OPEN)["process"] == 0


def test_f1_of_diseases():
    assert f1(set(), set()) == 1 and f1(set(), set(), both_empty=0.0) == 0
    assert f1(set(), {"x"}) == 0
    half = OPEN.rsplit("Edema, Pleural Effusion", 1)[0] + "Edema</answer>"
    assert one("open", "checked", half, OPEN)["accuracy"] == pytest.approx(2 / 3)


def test_a_reference_that_is_no_trace_is_an_error():
    with pytest.raises(ValueError, match="interleaved"):
        cxmind.closed(CLOSED, Reference("B"))


def row(accuracy):
    return {"overall": accuracy, "accuracy": accuracy, "process": 0.5, "reason": 0.25}


def test_the_gate_follows_an_exponential_mean():
    gate = Gate()
    assert gate.apply([row(0.5)])[0]["stable"] == 1 and gate.mean == 0.5
    assert gate.apply([row(0.0), row(0.8)])[0] == {**row(0.0), "stable": 0.0}
    assert gate.mean == pytest.approx(0.2 * 0.4 + 0.8 * 0.5)
    equal = gate.mean  # counts as stable
    assert gate.apply([row(equal)])[0]["overall"] == pytest.approx(equal + 0.75)


def test_the_gate_survives_a_checkpoint():
    gate = Gate(margin=0.01)
    gate.apply([row(0.7)])
    assert Gate.of(json.loads(json.dumps(gate.state()))) == gate


def test_an_empty_batch_leaves_the_gate_alone():
    gate = Gate()
    assert gate.apply([]) == [] and gate.mean is None
