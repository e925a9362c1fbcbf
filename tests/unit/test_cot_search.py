"""The search: its path for every course of verdicts, its bounds, and what it keeps."""

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diagcot.cot import prompts
from diagcot.cot.search import Answer, Question, Trace, search
from diagcot.cot.settings import SearchSettings

REFERENCE = "findings : the heart is large . impression : cardiomegaly ."
ONCE = SearchSettings(parse_retries=0)


def good(question: Question, verdict: bool = True, number: int = 0) -> str:
    name = question.name.split(":")[0]
    step = {"title": "heart", "content": f"thought {number}"}
    replies: dict[str, Any] = {
        "verify": {"verdict": verdict, "reason": "because"},
        "final": {"findings": "The heart is large.", "impression": "Cardiomegaly."},
    }
    if name == "rewrite":
        return f"i look at the heart.\nit is large ({number})."
    return json.dumps(replies.get(name, {"thinking": [step], "conclusion": f"conclusion {number}", "check": "checked"}))


def drive(answer: Any, sample: str = "a", using: SearchSettings = ONCE, seed: int = 0) -> tuple[list[Question], Trace]:
    """Questions asked and the trace, with `answer(question, number)` as the model."""
    run, asked = search(sample, REFERENCE, using, seed), []
    try:
        question = next(run)
        while True:
            asked.append(question)
            question = run.send(answer(question, len(asked)))
    except StopIteration as end:
        return asked, end.value


def names(asked: list[Question]) -> list[str]:
    return [question.name.split(":")[0] for question in asked]


def test_a_good_first_thought_takes_four_calls():
    asked, trace = drive(lambda q, n: Answer(good(q)))
    assert names(asked) == ["init", "verify", "rewrite", "final"]
    assert trace.verified and not trace.forced and trace.error is None and trace.calls == 4
    assert trace.report == "findings : the heart is large . impression : cardiomegaly ."
    assert trace.reasoning == "i look at the heart.\nit is large (0)."


def test_never_accepted_takes_seventeen_calls_and_is_marked_forced():
    asked, trace = drive(lambda q, n: Answer(good(q, verdict=False)))
    assert names(asked) == ["init", "verify", *["rethink", "verify"] * 6, "label", "rewrite", "final"]
    assert len(asked) == trace.calls == 17
    assert trace.forced and not trace.verified and len(trace.failed) == 3 and len(trace.verdicts) == 7


def test_without_a_forced_label_the_sample_is_given_up_with_the_cause():
    using = SearchSettings(parse_retries=0, label_forced=False)
    asked, trace = drive(lambda q, n: Answer(good(q, verdict=False)), using=using)
    assert len(asked) == 14 and trace.error == "verify: no attempt was accepted"


def test_every_attempt_starts_again_from_the_first_thinking():
    asked, _ = drive(lambda q, n: Answer(good(q, verdict=False, number=n)))
    again = [q.prompt for q in asked if q.name.startswith("rethink")]
    assert all("thought 1" in prompt for prompt in again)
    for first, second in zip(again[::2], again[1::2], strict=True):
        assert first.count("thought") == 1 and second.count("thought") == 2


def test_the_reference_stands_where_the_reference_belongs():
    asked, _ = drive(lambda q, n: Answer(good(q, verdict=False)))
    for question in asked:
        assert question.prompt.startswith(f"<image>Reference report: {REFERENCE}\n")
    for question in asked:
        if question.name.startswith("rethink"):
            assert question.prompt.index("Thinking so far:\nheart: thought") > question.prompt.index(REFERENCE)


@given(st.integers(0, 2**32), st.integers(0, 10**6).map(str))
@settings(max_examples=60, deadline=None)
def test_backtracking_is_never_the_first_step(seed, sample):
    asked, _ = drive(lambda q, n: Answer(good(q, verdict=False)), sample, seed=seed)
    steps = [q.name.split(":")[1] for q in asked if q.name.startswith("rethink")]
    assert "backtracking" not in steps[::2] and set(steps) <= set(prompts.STRATEGIES)


@given(st.integers(0, 2**32), st.integers(0, 4), st.integers(1, 3), st.integers(0, 2))
@settings(max_examples=80, deadline=None)
def test_any_replies_end_within_the_bound_and_say_what_failed(seed, attempts, depth, retries):
    using = SearchSettings(attempts=attempts, depth=depth, parse_retries=retries)
    dice = random.Random(seed)

    def reply(question: Question, number: int) -> Answer:
        roll = dice.random()
        if roll < 0.05:
            return Answer(error="HTTP 400: too long")
        if roll < 0.1:
            return Answer("{", "length")
        if roll < 0.2:
            return Answer(
                dice.choice(["", "[]", "{}", "null", '{"verdict": "not true"}', '{"thinking": []}', "<think>"])
            )
        return Answer(good(question, verdict=dice.random() < 0.5))

    asked, trace = drive(reply, "s", using)
    assert len(asked) == trace.calls <= (2 + attempts * depth * 2 + 3) * (retries + 1)
    assert (trace.error is None) == bool(trace.reasoning and trace.report)
    assert not (trace.verified and trace.forced)
    assert trace.error is None or trace.error.split(":")[0] in {"init", "label", "rewrite", "final"}
    if trace.error is None and not trace.forced:
        assert trace.verified and trace.verdicts[-1]["verdict"] is True


@pytest.mark.parametrize("text", ["not true", '{"verdict": "true", "reason": "x"}', '{"reason": "true"}', "true", ""])
def test_only_a_boolean_true_is_an_acceptance(text):
    def reply(question: Question, number: int) -> Answer:
        return Answer(text if question.name == "verify" else good(question))

    _, trace = drive(reply)
    assert trace.forced and not trace.verified


def test_an_unreadable_reply_is_asked_again_with_another_seed():
    def reply(question: Question, number: int) -> Answer:
        return Answer("{", "length") if number == 1 else Answer(good(question))

    asked, trace = drive(reply, using=SearchSettings(temperature=0.0))
    assert names(asked)[:3] == ["init", "init", "verify"] and trace.error is None
    assert asked[0].seed != asked[1].seed and asked[0].temperature == 0 < asked[1].temperature


def test_the_cause_of_a_failure_is_kept():
    _, trace = drive(lambda q, n: Answer("{", "length"))
    assert trace.error == "init: cut at 1024 tokens" and trace.calls == 1
    _, trace = drive(lambda q, n: Answer(error="HTTP 400: too long"))
    assert trace.error == "init: HTTP 400: too long"


def test_line_breaks_keep_words_apart():
    def reply(question: Question, number: int) -> Answer:
        if question.name == "final":
            raw = '{"findings": "the heart\\nis large", "impression": "Impression: large\nheart"}'
            return Answer(raw)
        return Answer(good(question))

    _, trace = drive(reply)
    assert trace.report == "findings : the heart is large . impression : large heart ."


def test_the_same_seed_takes_the_same_path():
    first, again, other = (
        [(q.name, q.seed) for q in drive(lambda q, n: Answer(good(q, verdict=False)), "x", seed=seed)[0]]
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_every_string_and_array_of_every_schema_is_bounded():
    def check(schema: dict[str, Any]) -> None:
        if schema["type"] == "object":
            assert schema["additionalProperties"] is False and set(schema["required"]) == set(schema["properties"])
            for part in schema["properties"].values():
                check(part)
        elif schema["type"] == "array":
            assert schema["maxItems"] and schema["minItems"]
            check(schema["items"])
        else:
            assert schema["type"] == "boolean" or schema["maxLength"]

    limits = prompts.Limits()
    check(prompts.thinking_schema(limits))
    check(prompts.thinking_schema(limits, again=True))
    for make in (prompts.verdict_schema, prompts.final_schema):
        check(make(limits))
    assert next(iter(prompts.thinking_schema(limits, again=True)["properties"])) == "check"
