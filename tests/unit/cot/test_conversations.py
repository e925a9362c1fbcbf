"""Conversations written by rule: good examples of the search, whose reasoning doubts and corrects what is wrong."""

import json

import pytest

from diagcot.cot.search import prompts
from diagcot.cot.search.mentions import reference_mention
from diagcot.cot.search.replies import agreement, clean, conclusion
from diagcot.cot.search.sample import CoTSample
from diagcot.cot.synthetic.conversations import CONVERSATIONS, Material, Reading
from diagcot.data.phantom.patients import visits
from diagcot.data.reports.labeler import label
from diagcot.metrics.repetition import variety
from diagcot.tasks.prompt_set import DEFAULT, PromptSet
from diagcot.tasks.samples import ImageRef

READINGS = [Reading.of(*visit.findings.report()) for visit in visits(60, 3)]


def materials(texts: PromptSet = DEFAULT) -> list[Material]:
    found = []
    for number, correct in enumerate(READINGS):
        other = READINGS[(number * 7 + 3) % len(READINGS)]
        if correct.differences(other):
            wrong = other if number % 2 else correct.with_error(other)
            found.append(Material(f"s{number}", correct, wrong if correct.differences(wrong) else other, texts))
    return found


MATERIALS = materials()


def test_a_reading_is_the_report_and_its_reasoning_states_the_same() -> None:
    for visit, reading in zip(visits(60, 3), READINGS, strict=True):
        findings, impression = visit.findings.report()
        assert (reading.findings, reading.impression) == (findings, impression)
        # Nothing but the report's own statements: sides, zones, sizes and negatives as they are.
        assert label(reading.reasoning) == label(f"{findings} {impression}")
        lines = reading.reasoning.splitlines()
        assert lines[-1].endswith(impression) and not any(impression in line for line in lines[:-1])
        assert all(line[0].isupper() and line.endswith(".") for line in lines) and "image" in lines[0]


def test_a_second_attempt_doubts_looks_again_and_corrects() -> None:
    strategies = set()
    for material in MATERIALS:
        _, reply = CONVERSATIONS["rethink"](material)
        row = json.loads(reply)
        assert row["check"].startswith("Wait, on second look") and list(row) == ["check", "thinking", "conclusion"]
        wrong = set(material.correct.differences(material.wrong)) - {"impression"}
        again = {step["title"].lower() for step in row["thinking"]}
        assert again and wrong <= again
        strategies.add((material.strategy, again == wrong))
        assert conclusion(row["conclusion"], ("findings", "impression")).text == material.correct.text
        assert "conclusion" not in json.loads(CONVERSATIONS["label"](material)[1])  # the reference is the conclusion
    assert {name for name, _ in strategies} == set(prompts.STRATEGIES)
    assert ("correction", True) in strategies and ("verification", False) in strategies


def test_self_correction_stays_in_the_reasoning_unless_the_set_is_clean() -> None:
    kept = 0
    for material in MATERIALS:
        prompt, reply = CONVERSATIONS["rewrite"](material)
        assert "Reference report" not in prompt
        assert ("Check: Wait" in prompt) is ("Wait, on second look" in reply)
        if "Wait" in reply:
            kept += 1
            before, after = reply.split("Wait, on second look")
            assert material.wrong.impression in before and reply.endswith(material.correct.impression)
            assert all(text in before for text in material.wrong.regions.values())
            changed = set(material.correct.differences(material.wrong)) & set(material.correct.regions)
            assert all(material.correct.regions[name] in after for name in changed)
        assert variety(reply) > 0.8
    assert 0.3 * len(MATERIALS) < kept < 0.7 * len(MATERIALS)
    for material in materials(PromptSet("clean")):
        assert CONVERSATIONS["rewrite"](material)[1] == material.correct.reasoning


def test_a_verdict_follows_from_its_reason() -> None:
    for material in MATERIALS:
        for name, verdict in (("verify_true", True), ("verify_false", False)):
            prompt, reply = CONVERSATIONS[name](material)
            row = json.loads(reply)
            assert list(row) == ["reason", "verdict"] and row["verdict"] is verdict is agreement(row["reason"])
            shown = material.correct if verdict else material.wrong
            assert f"Conclusion to review: {shown.text}\n" in prompt


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_no_reply_speaks_of_the_reference_and_all_are_short(name: str) -> None:
    for material in MATERIALS:
        prompt, reply = CONVERSATIONS[name](material)
        case = CoTSample("a", "report", "s", (ImageRef("s.h5", 0),), "", material.correct.answer, material.correct.text)
        if not name.startswith(("verify", "judge")):
            clean(reply, case, True)
            assert not reference_mention(reply, "report", material.correct.text)
        assert len(f"{DEFAULT.render('system')} {prompt} {reply}".split()) < 620


def test_the_names_of_conversations_are_those_that_are_written() -> None:
    from diagcot.cot.settings import SYNTHETIC, SyntheticSettings
    from diagcot.cot.synthetic import conversations, drawings, exercises

    written = {*conversations.CONVERSATIONS, *exercises.WRITERS, *drawings.TASKS}
    assert set(SYNTHETIC) == written | {"report", "grounding", "reasoned", "closed", "open"}
    with pytest.raises(ValueError, match="there is no conversation 'reprot'; did you mean 'report'"):
        SyntheticSettings(tasks={"reprot": 1.0})
