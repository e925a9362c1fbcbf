"""Interleaved traces: what is asked, which rules a reply must keep, and that the rewards pay in full for what is kept."""

import copy
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from diagcot.cot.filtration import rules
from diagcot.cot.search.calls import Answer, Question, Trace
from diagcot.cot.search.interleaved import interleave, standard_name
from diagcot.cot.search.sample import CoTSample, select_samples
from diagcot.cot.settings import CollectSettings, FilterSettings, SearchSettings
from diagcot.cot.synthetic import conversations
from diagcot.data.phantom.tree import write_tree
from diagcot.jobs import Unit, UserError
from diagcot.jobs.testing import context, run_unit
from diagcot.rewards import cxmind
from diagcot.rewards.score import Reference
from diagcot.shards import Shard, build, shard_paths
from diagcot.tasks.questions.questions import CLOSED, question_samples
from diagcot.tasks.questions.wording import Wording
from diagcot.tasks.questions.worked_answers import trace_step
from diagcot.tasks.samples import Sample
from tests.unit.cot import cot_traces

ASKED = dict.fromkeys((*CLOSED, "progression", "open"), 1.0)
SETTINGS = CollectSettings(tasks=("closed", "open"), views="all")


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Shard:
    root = tmp_path_factory.mktemp("interleaved")
    (root / "tree").mkdir()
    write_tree(root / "tree", 40, seed=3, size=48, held_out=0.3)
    source = {"kind": "mimic_cxr", "path": str(root / "tree")}
    run_unit(build, Unit("00000"), context(root, {"sources": [source], "image_size": 48}, stage="shard"))
    return Shard(shard_paths(root / "shards/test/shard")[0])


@pytest.fixture(scope="module")
def samples(shard: Shard) -> dict[str, Sample]:
    name = "test/shard/00000.h5"
    return {sample.id: sample for sample in question_samples(shard, name, "train", ASKED, Wording(), 7, "image")}


@pytest.fixture(scope="module")
def cases(shard: Shard, samples: dict[str, Sample]) -> list[CoTSample]:
    """Some of each task."""
    every = select_samples(shard, shard.path.parents[2], SETTINGS, samples.values())
    return [case for task in ASKED for case in [case for case in every if case.task == task][:8]]


def drive(
    case: CoTSample, answer: Callable[[Question, int], str], using: SearchSettings | None = None
) -> tuple[list[Question], Trace]:
    run, asked = interleave(case, using or SearchSettings(), 7), list[Question]()
    try:
        question = next(run)
        while True:
            asked.append(question)
            question = run.send(Answer(answer(question, len(asked))))
    except StopIteration as end:
        return asked, end.value


def one(cases: list[CoTSample], samples: dict[str, Sample], task: str) -> tuple[CoTSample, dict[str, Any], str]:
    """A case of the task, the right reply to it, and its gold trace."""
    case = next(case for case in cases if case.task == task)
    gold = samples[case.id].answer
    return case, json.loads(conversations.pairs(case, gold)[1]), gold


def test_the_rewards_pay_in_full_for_what_the_rules_accept(cases: list[CoTSample], samples: dict[str, Sample]) -> None:
    assert {case.task for case in cases} == set(ASKED)
    for case in cases:
        gold = samples[case.id].answer
        reply = conversations.pairs(case, gold)[1]
        asked, trace = drive(case, lambda q, n, reply=reply: reply)  # type: ignore[misc]
        assert trace.error is None and len(asked) == 1 == trace.calls and trace.by == "init"
        assert trace.verified and not trace.forced and trace.answer == case.reference
        text = "\n".join(trace_step(*step) for step in trace.pairs)
        reward = cxmind.opened if case.task == "open" else cxmind.closed
        score = reward(text, Reference(gold))
        assert score["overall"] == pytest.approx(1.0) and score["process"] == (0.2 if case.task == "open" else 0.5)
        # An open answer of No Finding has a think about it, so every right answer has a reason to compare.
        assert score["reason"] == pytest.approx(1.0)
        assert text == gold


def test_worked_answers_pass_every_rule_of_the_filter(cases: list[CoTSample], samples: dict[str, Sample]) -> None:
    """Their statements are true of the report, and no verdict stands before its evidence."""
    for case in cases:
        reply = conversations.pairs(case, samples[case.id].answer)[1]
        _, found = drive(case, lambda q, n, reply=reply: reply)  # type: ignore[misc]
        row = cot_traces.closed(
            **{"task": case.task, "question": case.question, "reference": case.reference, "meta": case.meta},
            **{"guide": case.reference_report, **vars(found)},
        )
        assert rules.fault(row, FilterSettings(variety=0.0)) is None, case.id


def test_prompts_begin_with_films_and_report_and_hold_no_tags(
    cases: list[CoTSample], samples: dict[str, Sample]
) -> None:
    for case in cases:
        asked, _ = drive(case, lambda q, n: "{}")
        films = "<image>" * len(case.images)
        assert len(asked) == 3 + 3  # three tries, then the gold answer is given: once, and twice again
        for question in asked:
            assert question.prompt.startswith(f"{films}Reference report: {case.reference_report}\nQuestion: ")
            assert "<think>" not in question.prompt and question.prompt.count("<image>") == len(case.images)
            options = case.meta.get("options", ())
            assert all(f"{letter}) {text}" in question.prompt for letter, text in zip("ABCDEFG", options, strict=False))
            assert question.schema is not None
        answer = case.reference.split(")")[0]
        assert "The correct answer is" not in asked[0].prompt and f"The correct answer is {answer}" in asked[-1].prompt
    two = next(case for case in cases if case.task == "progression")
    assert len(two.images) == 2 and " Later: " in two.reference_report


def test_a_closed_reply_looks_first_and_judges_no_last(cases: list[CoTSample], samples: dict[str, Sample]) -> None:
    for case in cases:
        [question, *_], _ = drive(case, lambda q, n: "{}")
        assert question.schema is not None
        members = list(question.schema["properties"])
        options = case.meta.get("options")
        if not options:
            assert members == ["observed", "hypotheses", "summary"]
            continue
        assert members[0] == "look" and members[-1] == "summary"
        no = [letter for letter in members[1:-1] if options["ABCDEFG".index(letter)] in ("No", "No Finding")]
        assert members[-1 - len(no) : -1] == no and sorted(members[1:-1]) == list("ABCDEFG"[: len(options)])


Spoil = Callable[[dict[str, Any]], Any]


def last(row: dict[str, Any]) -> str:
    return next(reversed([key for key in row if key != "summary"]))


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda row: row["A"].update(correct=not row["A"]["correct"]), "A is (not )?correct"),
        (lambda row: row.pop("A"), "'A' is missing"),
        (lambda row: row.pop("look"), "'look' is missing"),
        (lambda row: row.update(look=row["summary"]), "two thoughts are the same"),
        (lambda row: row[last(row)].update(think=" "), "a thought is empty"),
        (lambda row: row["A"].update(think=row["summary"]), "two thoughts are the same"),
        (lambda row: row.update(summary="The reference report says so."), "it mentions a reference"),
        (lambda row: row.update(summary="So </think> it is."), "tags"),
        (lambda row: row["A"].update(correct="yes"), "neither true nor false"),
        (lambda row: row.pop("summary"), "'summary' is missing"),
    ],
)
def test_a_closed_reply_that_breaks_a_rule_is_asked_again_with_the_fault(
    cases: list[CoTSample], samples: dict[str, Sample], spoil: Spoil, fault: str
) -> None:
    case, right, gold = one(cases, samples, "single")
    wrong = copy.deepcopy(right)
    spoil(wrong)
    asked, trace = drive(case, lambda q, n: json.dumps(wrong if n == 1 else right))
    assert len(asked) == 2 and trace.verified and "\n".join(trace_step(*step) for step in trace.pairs) == gold
    assert asked[1].rejected is not None
    shown, why = asked[1].rejected
    assert shown == json.dumps(wrong)[:2000] and asked[1].messages[3][1].startswith("Your reply was rejected because ")
    assert re.search(fault, why)


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda row: row["hypotheses"][0].update(correct=not row["hypotheses"][0]["correct"]), "is (not )?correct"),
        (lambda row: row["hypotheses"].append(dict(row["hypotheses"][0], think="once more")), "occurs twice"),
        (lambda row: row["hypotheses"][0].update(name="Asthma, Gout"), "more than one finding"),
        (lambda row: row.update(hypotheses=[one for one in row["hypotheses"] if one["correct"]]), "no absent finding"),
        (lambda row: row.update(hypotheses=[one for one in row["hypotheses"] if not one["correct"]]), "is correct"),
        (lambda row: row.update(hypotheses=[]), "'hypotheses' is not a list"),
        (lambda row: row.pop("observed"), "'observed' is missing"),
        (lambda row: row["hypotheses"][0].update(think="as the ground truth has it"), "it mentions a reference"),
    ],
)
def test_an_open_reply_that_breaks_a_rule_is_asked_again_with_the_fault(
    cases: list[CoTSample], samples: dict[str, Sample], spoil: Spoil, fault: str
) -> None:
    case, right, gold = one(cases, samples, "open")
    wrong = copy.deepcopy(right)
    spoil(wrong)
    asked, trace = drive(case, lambda q, n: json.dumps(wrong if n == 1 else right))
    assert len(asked) == 2 and trace.verified and "\n".join(trace_step(*step) for step in trace.pairs) == gold
    assert asked[1].rejected is not None and re.search(fault, asked[1].rejected[1])


def test_after_three_faults_the_answer_is_given_and_the_trace_is_forced(
    cases: list[CoTSample], samples: dict[str, Sample]
) -> None:
    case, right, _ = one(cases, samples, "single")
    wrong = copy.deepcopy(right)
    wrong["A"]["correct"] = not right["A"]["correct"]
    asked, trace = drive(case, lambda q, n: json.dumps(wrong if q.name == "pairs" else right))
    assert [q.name for q in asked] == ["pairs"] * 3 + ["label"] and trace.calls == 4
    assert trace.forced and not trace.verified and trace.by == "label" and trace.pairs
    assert len(trace.failed) == 3 and [row["verdict"] for row in trace.verdicts] == [False] * 3 + [True]
    asked, trace = drive(case, lambda q, n: json.dumps(wrong), SearchSettings(label_forced=False))
    assert len(asked) == 3 and trace.error is not None and not trace.pairs and not trace.forced
    _, trace = drive(case, lambda q, n: json.dumps(wrong))
    assert trace.error is not None and trace.error.startswith("label: ") and not trace.pairs


def test_a_hypothesis_goes_by_the_name_that_gold_answers_use() -> None:
    assert standard_name("pulmonary edema") == "Edema" and standard_name("Pleural effusion.") == "Pleural Effusion"
    assert standard_name("no finding") == "No Finding"
    assert standard_name("Sarcoidosis") == "Sarcoidosis" and standard_name("normal lungs") == "normal lungs"


def test_questions_of_another_split_or_shard_are_refused(shard: Shard, samples: dict[str, Sample]) -> None:
    root = shard.path.parents[2]
    first = next(iter(samples.values()))
    with pytest.raises(UserError, match="split: train"):
        select_samples(shard, root, SETTINGS, [first.with_meta(split="validate")])
    other = Sample.from_json(first.to_json().replace("00000.h5", "00001.h5"))
    with pytest.raises(UserError, match="same shards"):
        select_samples(shard, root, SETTINGS, [other])


def test_tasks_and_numbers_choose_the_cases(shard: Shard, samples: dict[str, Sample]) -> None:
    root = shard.path.parents[2]
    some = select_samples(
        shard, root, CollectSettings(tasks=("open", "classification"), samples_per_shard=3), samples.values()
    )
    assert [case.task for case in some] == ["open"] * 3 + ["classification"] * 3
    again = select_samples(shard, root, CollectSettings(tasks=("open",)), reversed(list(samples.values())))
    assert again[:3] == some[:3]
    every = select_samples(shard, root, CollectSettings(tasks=("grounding", "report"), views="all"))
    assert len({case.id for case in every}) == len(every) and {case.task for case in every} == {"grounding", "report"}
    assert all(case.reference_report.startswith("Findings: ") for case in every if case.task == "grounding")
