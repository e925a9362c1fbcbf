"""The search: its path for every course of verdicts, its bounds, and what it keeps."""

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diagcot.cot.search import prompts, replies, schemas
from diagcot.cot.search.calls import Answer, Question, Trace
from diagcot.cot.search.collection import counts_of
from diagcot.cot.search.sample import CoTSample
from diagcot.cot.search.search import search
from diagcot.cot.settings import CollectSettings, SearchSettings
from diagcot.tasks.prompt_set import DEFAULT, PromptSet
from diagcot.tasks.samples import ImageRef

REPORT = DEFAULT.render("report")
REFERENCE = "findings : the heart is large . impression : cardiomegaly ."
GUIDE = "Findings: The heart is large. Impression: Cardiomegaly."
GOOD = {"findings": "The heart is large 0.", "impression": "Cardiomegaly."}
ONCE = SearchSettings(parse_retries=0)
RELEASED = CollectSettings.model_validate({"preset": "as-released"}).search


def report_case(name: str = "a", films: int = 1) -> CoTSample:
    images = tuple(ImageRef("s.h5", row) for row in range(films))
    return CoTSample(name, "report", "d/1", images, "<image>" * (films - 1) + REPORT, REFERENCE, GUIDE)


def good(question: Question, verdict: bool = True, number: int = 0) -> str:
    name = question.name.split(":")[0]
    step = {"title": "heart", "content": f"thought {number}"}
    written: dict[str, Any] = {
        "verify": {"verdict": verdict, "reason": "because"},
        "final": {"findings": "The heart is large.", "impression": "Cardiomegaly."},
    }
    if name == "rewrite":
        return f"i look at the heart.\nit is large ({number})."
    conclusion: Any = f"conclusion {number}"
    if question.schema and question.schema["properties"].get("conclusion", {}).get("type") == "object":
        conclusion = {**GOOD, "findings": f"The heart is large {number}."}
    return json.dumps(written.get(name, {"thinking": [step], "conclusion": conclusion, "check": f"checked {number}"}))


def drive(
    answer: Any, sample: str | CoTSample = "a", using: SearchSettings = ONCE, seed: int = 0
) -> tuple[list[Question], Trace]:
    """Questions asked and the trace, with `answer(question, number)` as the model."""
    case = sample if isinstance(sample, CoTSample) else report_case(sample)
    run, asked = search(case, using, seed), []
    try:
        question = next(run)
        while True:
            asked.append(question)
            question = run.send(answer(question, len(asked)))
    except StopIteration as end:
        return asked, end.value


def names(asked: list[Question]) -> list[str]:
    return [question.name.split(":")[0] for question in asked]


def test_a_good_first_thought_takes_three_calls_and_its_conclusion_is_the_answer():
    asked, trace = drive(lambda q, n: Answer(good(q)))
    assert names(asked) == ["init", "verify", "rewrite"]
    assert trace.verified and not trace.forced and trace.error is None and trace.calls == 3
    assert trace.conclusion == "Findings: The heart is large 0. Impression: Cardiomegaly."
    assert trace.conclusion in asked[1].prompt  # what was verified is what is taught
    assert trace.answer == "findings : the heart is large 0 . impression : cardiomegaly ."
    assert trace.reasoning == "i look at the heart.\nit is large (0)."


def test_never_accepted_takes_sixteen_calls_and_ends_in_the_reference():
    asked, trace = drive(lambda q, n: Answer(good(q, verdict=False)))
    assert names(asked) == ["init", "verify", *["rethink", "verify"] * 6, "label", "rewrite"]
    assert len(asked) == trace.calls == 16
    assert trace.forced and not trace.verified and len(trace.failed) == 3 and len(trace.verdicts) == 7
    assert trace.answer == REFERENCE and trace.conclusion == GUIDE


def test_the_given_answer_goes_on_from_the_refused_reasoning():
    asked, trace = drive(lambda q, n: Answer(good(q, verdict=False, number=n)))
    label = asked[-2]
    refused = "heart: thought 1\nConclusion: Findings: The heart is large 1. Impression: Cardiomegaly."
    assert label.name == "label" and f"Reasoning so far:\n{refused}\nCheck: checked" in label.prompt
    assert label.schema is not None and list(label.schema["properties"]) == ["check", "thinking"]
    assert [title for title, _ in trace.steps] == [*["heart", "Conclusion", "Check"] * 3, "heart"]


def test_doubt_and_correction_reach_the_natural_reasoning_and_the_reference_does_not():
    asked, trace = drive(lambda q, n: Answer(good(q, verdict=n > 3, number=n)))
    rewrite = asked[-1]
    whole = [
        "heart: thought 1",
        "Conclusion: Findings: The heart is large 1. Impression: Cardiomegaly.",
        "Check: checked 3",
        "heart: thought 3",
        "Conclusion: Findings: The heart is large 3. Impression: Cardiomegaly.",
    ]
    assert rewrite.prompt.startswith("<image>Reasoning:\n" + "\n".join(whole) + "\n") and GUIDE not in rewrite.prompt
    assert "wait" in rewrite.prompt and trace.by in prompts.STRATEGIES
    clean = PromptSet("clean").render("rewrite", thinking="x")
    assert "wait" not in clean and "Leave out statements that were corrected" in clean


def test_a_report_without_headings_is_answered_without_headings():
    case = CoTSample("a", "report", "d/1", (ImageRef("s.h5", 0),), REPORT, "the heart is large", "Findings: the heart")

    def reply(question: Question, number: int) -> Answer:
        return Answer(good(question).replace(', "impression": "Cardiomegaly."', ""))

    asked, trace = drive(reply, case)
    assert asked[0].schema is not None
    assert list(asked[0].schema["properties"]["conclusion"]["properties"]) == ["findings"]
    assert trace.answer == "The heart is large 0."


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
    for question in asked[:-1]:
        assert question.prompt.startswith(f"<image>Reference report: {GUIDE}\n")
    for question in asked:
        if question.name.startswith("rethink"):
            assert question.prompt.index("Reasoning so far:\nheart: thought") > question.prompt.index(GUIDE)


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
                dice.choice(["", "[]", "{}", "null", '{"verdict": "not true"}', '{"thinking": []}', "<think>", "}{"])
            )
        return Answer(good(question, verdict=dice.random() < 0.5))

    asked, trace = drive(reply, "s", using)
    assert len(asked) == trace.calls <= (2 + attempts * depth * 2 + 3) * (retries + 1)
    assert (trace.error is None) == bool(trace.reasoning and trace.answer)
    assert not (trace.verified and trace.forced)
    assert trace.error is None or trace.error.split(":")[0] in {"init", "label", "rewrite"}
    if trace.error is None and not trace.forced:
        assert trace.verified and trace.verdicts[-1]["verdict"] is True


def shared(texts: list[str]) -> int:
    """Characters that all texts begin with."""
    return next((at for at, signs in enumerate(zip(*texts, strict=False)) if len(set(signs)) > 1), min(map(len, texts)))


def labels_case(films: int = 1) -> CoTSample:
    images = tuple(ImageRef("s.h5", row) for row in range(films))
    meta = {"labels": {"Cardiomegaly": 1, "Edema": -1}}
    gold = "The label of this X-ray image is: Cardiomegaly"
    return CoTSample(
        "a:classification",
        "classification",
        "d/1",
        images,
        DEFAULT.render("classification", labels=["Edema"]),
        gold,
        REFERENCE,
        meta,
    )


def boxes_case(gold: str = "The detected cardiomegaly regions are: <box>(100,200),(500,600)</box>") -> CoTSample:
    images = (ImageRef("s.h5", 0),)
    return CoTSample(
        "a:Cardiomegaly", "grounding", "d/1", images, DEFAULT.render("grounding", label="cardiomegaly"), gold, REFERENCE
    )


@given(st.integers(0, 2**32), st.sampled_from([report_case("a", 3), labels_case(2), boxes_case()]))
@settings(max_examples=30, deadline=None)
def test_all_calls_of_a_sample_share_films_report_and_question(seed, case):
    """The longest prefix that they can share: whatever is the same in all of them comes before what is not."""
    asked, _ = drive(lambda q, n: Answer(good(q, verdict=False, number=n)), case, seed=seed)
    prompts_ = [q.prompt for q in asked[:-1]]  # the rewriter does not see the report
    question = "" if case.task == "report" else f"Question: {case.question.removeprefix('<image>')}\n"
    head = f"{'<image>' * len(case.images)}Reference report: {case.reference_report}\n{question}"
    assert shared(prompts_) >= len(head) and all(text.startswith(head) for text in prompts_)
    # Nothing that all calls share is left behind: no line of the head stands in a tail again.
    assert all(case.reference_report not in text[len(head) :] for text in prompts_)
    # Thinking again goes on from the thinking that was shown before.
    again = [q for q in asked if q.name.startswith("rethink")]
    for one, two in zip(again[::2], again[1::2], strict=True):
        assert one.prompt.index("Conclusion: ") <= shared([one.prompt, two.prompt]) + len("Conclusion: ")
    for one in again:
        explained = prompts.rethink(prompts.Head(""), "", one.name.split(":")[1], task=case.task)
        assert explained[explained.index("wrong. ") + len("wrong. ") :] in one.prompt
    assert {q.messages[0] for q in asked} == {("system", DEFAULT.render("system"))}


def test_what_is_asked_again_goes_on_from_what_was_asked():
    def reply(question: Question, number: int) -> Answer:
        return Answer('{"thinking": 7, "conclusion": {}}') if number == 1 else Answer(good(question))

    asked, trace = drive(reply, using=SearchSettings())
    first, second = asked[0].messages, asked[1].messages
    assert second[:2] == first and second[2] == ("assistant", '{"thinking": 7, "conclusion": {}}')
    assert second[3] == (
        "user",
        "Your reply was rejected because 'findings' is missing. Answer again in the requested format.",
    )
    assert trace.error is None and len(asked[2].messages) == 2


def test_the_reviewers_reason_is_told_to_who_thinks_again():
    asked, trace = drive(lambda q, n: Answer(good(q, verdict=n > 3)))
    again = next(q for q in asked if q.name.startswith("rethink"))
    assert "found the conclusion wrong: because. " in again.prompt
    assert trace.verified and trace.by == again.name.removeprefix("rethink:")


@pytest.mark.parametrize(
    ("conclusion", "fault"),
    [
        ("Cardiomegaly", ""),
        ("cardiomegaly, edema", ""),  # edema is in doubt
        ("Cardiomegaly, Fracture", "it adds fracture"),
        ("Edema", "it omits cardiomegaly"),
        ("No Finding", "it omits cardiomegaly and it adds no finding"),
    ],
)
def test_labels_are_verified_by_rule(conclusion, fault):
    def reply(question: Question, number: int) -> Answer:
        said = {"thinking": [{"title": "heart", "content": "large"}], "conclusion": conclusion, "check": "ok"}
        return Answer(good(question) if question.name == "rewrite" else json.dumps(said))

    asked, trace = drive(reply, labels_case())
    assert "verify" not in names(asked) and "final" not in names(asked)
    assert trace.verdicts[0] == {"step": "init", "verdict": not fault, "reason": fault or "by rule"}
    assert trace.verified is (not fault) and trace.forced is bool(fault) and trace.answer == labels_case().reference
    assert names(asked)[:2] == (["init", "rewrite"] if not fault else ["init", "rethink"])
    if fault:
        assert f"wrong: {fault}." in asked[1].prompt
        assert f"The correct answer is: {trace.answer}\n" in asked[-2].prompt and asked[-2].name == "label"


@pytest.mark.parametrize(
    ("gold", "conclusion", "fault"),
    [
        (boxes_case().reference, "<box>(110,200),(500,600)</box>", ""),
        (boxes_case().reference, "<box>(400,200),(900,600)</box>", "by 12%, and there are 1"),
        (boxes_case().reference, "no cardiomegaly regions detected", "by 0%, and there are 1"),
        (boxes_case().reference, "in the middle", "by 0%, and there are 1"),
        ("No cardiomegaly regions detected.", "No cardiomegaly regions detected.", ""),
        ("No cardiomegaly regions detected.", "<box>(1,1),(9,9)</box>", "there is no such region"),
    ],
)
def test_boxes_are_verified_by_rule(gold, conclusion, fault):
    def reply(question: Question, number: int) -> Answer:
        said = {"thinking": [{"title": "heart", "content": "large"}], "conclusion": conclusion, "check": "ok"}
        return Answer(good(question) if question.name == "rewrite" else json.dumps(said))

    _, trace = drive(reply, boxes_case(gold))
    assert trace.answer == gold and trace.verified is (not fault)
    assert trace.verdicts[0]["reason"].endswith(fault or "by rule")


def test_as_released_does_what_the_release_does():
    def reply(question: Question, number: int) -> Answer:
        if question.name == "verify":
            return Answer("This is not true." if number > 8 else "False")
        return Answer(f"Here: {good(question)} done.")

    asked, trace = drive(reply, using=RELEASED)
    assert all(q.schema is None and q.max_tokens == 8192 and q.temperature == 0 for q in asked)
    assert all(q.prompt.endswith("<image>") and q.prompt.count("<image>") == 1 for q in asked)
    assert trace.verified and not trace.forced  # "not true" holds the word
    assert "Use this layout:" in asked[0].prompt and '"thinking"' in asked[0].prompt
    assert "found the conclusion wrong. " in asked[2].prompt and GUIDE in asked[2].prompt.splitlines()[0]
    assert names(asked)[-2:] == ["rewrite", "final"] and GUIDE not in asked[-2].prompt and GUIDE in asked[-1].prompt
    # The whole reference is copied into the impression.
    assert trace.answer == f"findings : the heart is large . impression : {REFERENCE}"

    asked, trace = drive(lambda q, n: Answer("False" if q.name == "verify" else good(q)), using=RELEASED)
    assert len(asked) == 17 and trace.verified and trace.forced
    asked, trace = drive(lambda q, n: Answer("```json {,}"), using=RELEASED)
    assert len(asked) == 1 and trace.error.startswith("init: the reply cannot be used")


def test_a_preset_gives_defaults_that_a_recipe_may_override():
    released = CollectSettings.model_validate(
        {"preset": "as-released", "views": "frontal", "search": {"attempts": 1}, "server": {"max_num_seqs": 8}}
    )
    assert released.views == "frontal" and released.search.attempts == 1 and released.search.verdict == "word"
    assert released.server.max_model_len == 16000 and released.server.max_num_seqs == 8
    assert CollectSettings.model_validate(released.model_dump(mode="json")) == released
    better = CollectSettings()
    assert better.preset == "better" and better.views == "study" and better.search == SearchSettings()
    assert CollectSettings(tasks="closed").tasks == ("closed",)  # type: ignore[arg-type]
    wrong: dict[str, Any]
    for wrong in ({"preset": "released"}, {"tasks": []}, {"tasks": ["raport"]}, {"search": {"verdicts": "word"}}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            CollectSettings.model_validate(wrong)


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
    assert trace.error == "init: cut off at 1536 tokens" and trace.calls == 1
    _, trace = drive(lambda q, n: Answer(error="HTTP 400: too long"))
    assert trace.error == "init: HTTP 400: too long"


def test_line_breaks_keep_words_apart():
    def reply(question: Question, number: int) -> Answer:
        if question.name == "init":
            conclusion = '{"findings": "the heart\\nis large", "impression": "Impression: large\nheart"}'
            return Answer(good(question).replace(json.dumps(GOOD), conclusion))
        return Answer(good(question))

    _, trace = drive(reply)
    assert trace.answer == "findings : the heart is large . impression : large heart ."


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

    limits = schemas.Limits()
    check(schemas.thinking(limits))
    check(schemas.thinking(limits, ("findings", "impression"), check_first=True))
    check(schemas.continued(limits))
    for make in (schemas.verdict, schemas.final, schemas.open_question):
        check(make(limits))
    check(schemas.closed_question(limits, "ABC"))
    assert list(schemas.closed_question(limits, "ABC")["properties"]) == ["look", "A", "B", "C", "summary"]
    assert next(iter(schemas.thinking(limits, check_first=True)["properties"])) == "check"


def test_thoughts_about_the_reviewer_are_asked_again() -> None:
    def reply(question: Question, number: int) -> Answer:
        text = good(question, verdict=number > 3)
        return Answer(text.replace("checked", "The reviewer says no:") if question.name.startswith("rethink") else text)

    _, trace = drive(reply)
    assert trace.verdicts[1]["verdict"] is None and "it mentions a reference" in trace.verdicts[1]["reason"]


def test_a_contradictory_verdict_accepts_nothing_and_is_counted() -> None:
    def reply(question: Question, number: int) -> Answer:
        if question.name == "verify":
            return Answer('{"reason": "The side of the effusion differs.", "verdict": true}')
        return Answer(good(question))

    _, trace = drive(reply)
    assert trace.forced and not trace.verified and {entry["verdict"] for entry in trace.verdicts} == {None}
    assert all(replies.CONTRADICTION in entry["reason"] for entry in trace.verdicts)
    row: Any = {"by": "label", "prompt_tokens": 1, "completion_tokens": 1} | vars(trace)
    assert counts_of(row)["contradictory_verdicts"] == len(trace.verdicts)
