"""Reading of replies: what is mended, what is not, and that mending makes nothing up."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diagcot.cot.search import replies
from diagcot.cot.search.replies import UnreadableReplyError
from diagcot.cot.search.sample import CoTSample

CASE = CoTSample("a", "report", "d/1", (), "<image>Report.", "findings : clear .", "findings : clear .")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
LEAF = st.one_of(TEXT, st.booleans(), st.integers(-99, 99), st.none())
VALUE = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=10
)
OBJECT = st.dictionaries(TEXT, VALUE, min_size=1, max_size=4)


@given(OBJECT, st.sampled_from([None, 1]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_whole_object_is_read_as_it_is(row: dict[str, Any], indent: int | None, mend: bool) -> None:
    assert replies.read_json(json.dumps(row, indent=indent, ensure_ascii=False), mend) == row


@given(OBJECT, st.sampled_from(["", "Here it is:\n", "<think>well</think> "]), st.sampled_from(["", "\nThat is all."]))
@settings(max_examples=60, deadline=None)
def test_fences_prose_and_stray_commas_are_mended(row: dict[str, Any], before: str, after: str) -> None:
    text = json.dumps(row, indent=1)
    for mark in "}]":  # json.dumps with an indent ends every member by a line break, never a string's inside
        text = text.replace(f"\n{mark}", f",\n{mark}")
    fenced = f"{before}```json\n{text}\n```{after}"
    assert replies.read_json(fenced, True) == row
    with pytest.raises(UnreadableReplyError):
        replies.read_json(fenced, False)


def within(part: Any, whole: Any) -> bool:
    """Whether all that `part` holds is in `whole` at its place, leaf by leaf unchanged."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(key in whole and within(value, whole[key]) for key, value in part.items())
    if isinstance(part, list) and isinstance(whole, list):
        return len(part) <= len(whole) and all(map(within, part, whole))
    return type(part) is type(whole) and part == whole


def test_a_fence_inside_a_string_stays() -> None:
    assert replies.read_json('{"```": null, "a": "x```y", "b": "cut', True) == {"```": None, "a": "x```y"}
    assert replies.read_json('```json\n{"a": 1,\n```\n', True) == {"a": 1}


@given(OBJECT, st.floats(0, 1), st.sampled_from([None, 2]))
@settings(max_examples=80, deadline=None)
def test_a_cut_reply_keeps_whole_values_and_invents_none(row: dict[str, Any], share: float, indent: int | None) -> None:
    text = json.dumps(row, indent=indent, ensure_ascii=False)
    try:
        kept = replies.read_json(text[: int(share * len(text))], True)
    except UnreadableReplyError:
        return
    assert within(kept, row)


@given(st.text(max_size=80))
@settings(max_examples=100, deadline=None)
def test_no_reply_is_an_error_of_another_kind(text: str) -> None:
    for mend in (True, False):
        try:
            assert isinstance(replies.read_json(text, mend), dict)
        except UnreadableReplyError as error:
            assert str(error)


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ('{"a": True, "b": None, "c": [1, 2,],}', {"a": True, "b": None, "c": [1, 2]}),
        ('{"a": "one\ntwo", "b": 1} and {more}', {"a": "one\ntwo", "b": 1}),
        ('{"thinking": [{"title": "heart", "content": "large"}], "conclusion": "x", "check": "it is', None),
        ('{"reason": "all of them agree', "it is not JSON"),
        ('{"a": {"b": "x"}, "c": fal', {"a": {"b": "x"}}),
        ('{"a": {"b": ["x", "y', {"a": {"b": ["x"]}}),
        ('{"a": "the "left" lung"}', "it is not JSON"),
        ("[1, 2]", "it is not a JSON object"),
        ("nothing", "it is not JSON"),
    ],
)
def test_faults_that_models_make(text: str, row: Any) -> None:
    if row is None:
        said = replies.read_json(text, True)
        assert replies.thinking(said) == ((("heart", "large"),), "") and said["conclusion"] == "x"
    elif isinstance(row, dict):
        assert replies.read_json(text, True) == row
    else:
        with pytest.raises(UnreadableReplyError, match=row):
            replies.read_json(text, True)


def test_a_cut_verdict_is_none_and_a_cut_section_is_missing() -> None:
    with pytest.raises(UnreadableReplyError, match="'verdict' is missing"):
        replies.verdict(replies.read_json('{"reason": "all agree", "verdict": tr', True))
    with pytest.raises(UnreadableReplyError, match="'impression' is missing"):
        replies.report(replies.read_json('{"findings": "the lungs are clear", "impression": "no acute', True))


def test_messages_hold_no_word_of_the_reply() -> None:
    for text in ('{"findings": "secret" "x"}', '{"thinking": "secret"}', '{"verdict": "secret", "reason": "secret"}'):
        for read in (replies.thinking, replies.verdict, replies.report):
            with pytest.raises(UnreadableReplyError) as caught:
                read(replies.read_json(text, True))
            assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "fine"),
    [
        ("the heart is large", True),
        ("the reference film of the year before", True),
        ("as the reference report says, the heart is large", False),
        ("this agrees with the ground truth", False),
        ("According to the report the heart is large", False),
        ("<think>the heart</think>", False),
    ],
)
def test_thoughts_have_no_tags_and_speak_of_no_reference(text: str, fine: bool) -> None:
    if fine:
        replies.clean(text, CASE, True)
    else:
        with pytest.raises(UnreadableReplyError):
            replies.clean(text, CASE, True)
    if "<" not in text:
        replies.clean(text, CASE, False)


def test_marks_of_films_in_a_reply_stand_for_none() -> None:
    assert replies.line("the <image> heart") == "the heart"
    assert replies.prose("the heart <image>\n\n is large") == "the heart\nis large"


def test_half_characters_deep_brackets_and_long_numbers_end_no_unit() -> None:
    told = replies.line(json.loads('"the \\ud83d heart"'))
    assert told.encode() and told.startswith("the ") and told.endswith(" heart")
    for text in ('{"a": ' + "[" * 100_000, '{"a": ' + "[" * 5000 + "]" * 5000 + "}", '{"a": ' + "9" * 5000 + "}"):
        for mend in (True, False):
            with pytest.raises(UnreadableReplyError, match="not JSON"):
                replies.read_json(text, mend)


@pytest.mark.parametrize(
    ("reason", "agrees"),
    [
        ("All key findings agree.", True),
        ("all agree.", True),
        ("Nothing contradicts the report.", True),
        ("The findings match the report, and no side differs.", True),
        ("The pleura differs.", False),
        ("The reading of the heart and the lungs differs.", False),
        ("The side does not match the reference.", False),
        ("It doesn't agree with the impression.", False),
        ("It contradicts the report: the effusion is on the wrong side.", False),
        ("The wording differs, but all key findings agree.", None),
        ("The heart agrees, but the side of the effusion differs.", None),
        ("because", None),
        ("There is an effusion on the left.", None),
    ],
)
def test_a_verdict_that_contradicts_its_reason_is_none(reason: str, agrees: bool | None) -> None:
    assert replies.agreement(reason) is agrees
    for verdict in (True, False):
        row = {"reason": reason, "verdict": verdict}
        if agrees is (not verdict):
            with pytest.raises(UnreadableReplyError, match=replies.CONTRADICTION):
                replies.verdict(row)
        else:
            assert replies.verdict(row) == (verdict, reason)


def test_a_conclusion_of_two_sections_may_be_one_text() -> None:
    both = ("findings", "impression")
    for value in (
        {"findings": "Findings: The heart is large.", "impression": "Cardiomegaly."},
        "Findings : The heart is large.\nImpression: Cardiomegaly.",
    ):
        found = replies.conclusion(value, both)
        assert found.text == "Findings: The heart is large. Impression: Cardiomegaly."
        assert found.sections == {"findings": "The heart is large.", "impression": "Cardiomegaly."}
    wrong: Any
    for wrong in ("The heart is large.", ["x"], 7, {"findings": "x"}):
        with pytest.raises(UnreadableReplyError):
            replies.conclusion(wrong, both)
