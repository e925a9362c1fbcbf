"""The rules of the filter: a good trace of every task keeps all of them, and each way to be bad breaks its own."""

import pytest

from diagcot.cot.filtration import dataset, rules
from diagcot.cot.settings import FilterSettings
from diagcot.cot.synthetic import conversations
from diagcot.tasks.prompt_set import DEFAULT
from diagcot.tasks.samples import Sample
from diagcot.text.layout import first_answer
from tests.unit.cot.cot_traces import closed, opened, trace

LABELS = "The label of this X-ray image is: Edema, Pneumonia"
BOX = "The detected edema regions are: <box>(100,100),(500,500)</box>"
MATCHING = {"task": "matching", "question": "<image>Was this report written about this film?\nA) No\nB) Yes"}
FIRST, SECOND, LAST = closed()["pairs"]
LISTED, EDEMA, PNEUMOTHORAX, FINAL = opened()["pairs"]


@pytest.mark.parametrize(
    "good",
    [
        trace(),
        trace(task="classification", reference=LABELS, answer="The label of this X-ray image is: Pneumonia, Edema"),
        trace(
            task="classification",
            reference=LABELS,
            answer=LABELS + ", Edema, Fracture",
            meta={"labels": {"Fracture": -1}},
        ),
        trace(task="grounding", reference=BOX, answer=BOX.replace("500", "470")),
        trace(task="grounding", reference="No edema regions detected.", answer="No edema regions detected."),
        trace(reasoning=trace()["reasoning"] + " for reference lines i look at the spine."),
        trace(
            guide="findings : as in the reference film .",
            reasoning="i see what is in the reference film, and that the heart is enlarged",
        ),
        closed(),
        closed(**MATCHING, pairs=[["the report says edema, which i do not see here", "A) ❌"], SECOND, LAST]),
        opened(),
    ],
)
def test_a_good_trace_of_every_task_keeps_all_rules(good):
    assert rules.fault(good, FilterSettings()) is None


@pytest.mark.parametrize(
    ("rule", "bad"),
    [
        ("search_failed", trace(error="init: cut at 8 tokens", reasoning="", answer="")),
        ("format", trace(answer=" ")),
        ("format", trace(reasoning=trace()["reasoning"] + "</THINK>")),
        ("format", closed(pairs=[])),
        ("format", closed(pairs=[["", "A) ❌"], SECOND, LAST])),
        ("format", closed(pairs=[FIRST, SECOND, [SECOND[0].upper(), "B) ✅"]])),
        ("reasoning_too_short", trace(reasoning="too short")),
        ("reasoning_too_long", trace(reasoning=" ".join(f"word{n}" for n in range(2001)))),
        ("repetitive", trace(reasoning="the heart is wide. " * 12)),
        ("leaked_prompt", trace(reasoning=trace()["reasoning"] + " Answer in JSON.")),
        ("leaked_prompt", trace(answer=trace()["answer"] + "<|im_end|>")),
        ("mentions_reference", trace(reasoning=trace()["reasoning"] + " The reference report says so too.")),
        ("mentions_reference", trace(reasoning=trace()["reasoning"] + " This is consistent with the report.")),
        ("mentions_reference", closed(**MATCHING, pairs=[["the reference report says edema", "A) ❌"], SECOND, LAST])),
        ("section_missing", trace(answer="findings : the heart is enlarged .")),
        ("labels_differ", trace(answer="findings : large left pneumothorax . impression : fracture .")),
        ("labels_differ", trace(task="classification", reference=LABELS, answer="The label of this X-ray image is: Edema")),
        ("labels_differ", trace(task="classification", reference=LABELS, answer="i do not know")),
        ("boxes_differ", trace(task="grounding", reference=BOX, answer=BOX.replace("500", "300"))),
        ("boxes_differ", trace(task="grounding", reference="No edema regions detected.", answer=BOX)),
        ("not_interleaved", trace(task="binary", reference="B) ✅", answer="B) ✅")),
        ("options_not_judged", closed(pairs=[SECOND, LAST])),
        ("options_not_judged", closed(pairs=[FIRST, SECOND, ["once more the same lines", "B) ✅"], LAST])),
        ("options_not_judged", closed(pairs=[[FIRST[0], "No"], SECOND, LAST])),
        ("answer_wrong", closed(pairs=[FIRST, SECOND, [LAST[0], "A) ✅"]])),
        ("marks_wrong", closed(pairs=[[FIRST[0], "A) ✅"], SECOND, LAST])),
        ("options_not_judged", opened(pairs=[LISTED, EDEMA, FINAL])),
        ("judged_before_seen", closed(meta={"options": ["No", "Yes"], "label": "Edema"})),
        ("judged_before_seen", opened(pairs=[["this is what", LISTED[1]], ["so this it is", EDEMA[1]], PNEUMOTHORAX, FINAL])),
        ("answer_wrong", opened(pairs=[LISTED, EDEMA, PNEUMOTHORAX, [FINAL[0], "Edema, Pneumothorax"]])),
        ("marks_wrong", opened(pairs=[LISTED, EDEMA, [PNEUMOTHORAX[0], "Pneumothorax ✅"], FINAL])),
        ("unknown_task", trace(task="poem")),
    ],
)  # fmt: skip
def test_each_way_to_be_bad_breaks_its_own_rule(rule, bad):
    found = rules.fault(bad, FilterSettings())
    assert found is not None and found.rule == rule and found.detail


def test_forced_traces_are_kept_unless_the_recipe_drops_them():
    forced = trace(forced=True, verified=False)
    assert rules.fault(forced, FilterSettings()) is None
    found = rules.fault(forced, FilterSettings(forced="drop"))
    assert found is not None and found.rule == "forced"


def test_as_released_only_failed_searches_are_dropped_before_the_judge():
    released = FilterSettings(preset="as-released")
    assert rules.fault(trace(reasoning="", answer="findings : fracture ."), released) is None
    assert rules.fault(trace(error="init: cut"), released) is not None
    assert FilterSettings(preset="as-released", rules=True).rules  # a recipe's own word wins
    assert FilterSettings.model_validate(released.model_dump(mode="json")) == released  # as a job reads it


def test_label_agreement_is_what_the_filter_asks_for():
    assert rules.label_f1("there is edema.", "pulmonary edema.") == 1
    assert rules.label_f1("no edema.", "pulmonary edema.") < 0.5
    assert rules.label_f1("", "") == 1
    assert FilterSettings().label_f1 == 1.0


def test_what_the_primer_teaches_keeps_the_rules():
    reading = conversations.Reading.of(
        "The heart is enlarged. No pleural effusion. The lungs are clear.", "Cardiomegaly."
    )
    told = trace(reasoning=reading.reasoning, answer=reading.answer, reference=reading.answer, guide=reading.text)
    assert rules.fault(told, FilterSettings()) is None


def test_samples_ask_as_evaluation_does_and_answer_in_both_layouts():
    told = dataset.sample(trace(meta={"view": "PA", "phantom": True}))
    assert (told.id, told.task, told.prompt) == ("d/s1/i1:cot", "report", DEFAULT.render("report"))
    assert told.answer == f"<think>{trace()['reasoning']}</think>\n<answer>{trace()['answer']}</answer>"
    assert told.meta == {"view": "PA", "phantom": True, "verified": True, "forced": False}
    assert Sample.from_json(told.to_json()) == told
    several = dataset.sample(closed())
    assert several.task == "binary" and several.answer.startswith("<think>the lungs are full")
    assert several.answer.count("<think>") == several.answer.count("</answer>") == 3
    assert first_answer(several.answer) == "A) ❌" and several.answer.endswith("<answer>B) ✅</answer>")
