"""No reader of model text hangs on one that loops: 0.1 s of CPU for 20,000 characters, whatever is repeated."""

import contextlib
import functools
import gc
import importlib.util
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from diagcot.cot.filtration import judge as trace_judge
from diagcot.cot.filtration import rules, wording
from diagcot.cot.filtration import statements as trace_statements
from diagcot.cot.filtration.filter import verdict as filter_verdict
from diagcot.cot.review import statistics, truth
from diagcot.cot.search import interleaved, mentions, replies
from diagcot.cot.search.evidence import judged_before_seen
from diagcot.cot.settings import FilterSettings
from diagcot.data.reports import facts, labeler, sections, statements
from diagcot.evaluation import judge as answer_judge
from diagcot.metrics import green, repetition, tokens
from diagcot.metrics import text as overlap
from diagcot.metrics.clinical import graphs, readers, rubric
from diagcot.rewards import names, registry
from diagcot.rewards.released import grounding as released_grounding
from diagcot.rewards.score import Reference, Reward
from diagcot.serving import Reply
from diagcot.tasks.questions.worked_answers import says_no
from diagcot.text import boxes, labels, layout, options, prose, reasoning
from diagcot.text import facts as answers
from tests import looping
from tests.unit.cot import cot_traces

LIMIT_S = 0.1
TEXTS = 9  # for each reader

REPORT = "findings : the heart is enlarged . there is a small left pleural effusion . impression : cardiomegaly ."
CLOSED = (
    "<think>the heart is large on the image</think><answer>A) ❌</answer>\n"
    "<think>there is an effusion</think><answer>B) ✅</answer>\n<think>so it is that</think><answer>B) ✅</answer>"
)
OPEN = (
    "<think>I look at the heart and lungs</think><answer>edema, cardiomegaly</answer>\n"
    "<think>the heart is large here</think><answer>cardiomegaly ✅</answer>\n"
    "<think>no lines are seen</think><answer>edema ❌</answer>\n<think>so it remains</think><answer>cardiomegaly</answer>"
)
GOLD = {
    "report": REPORT,
    "classification": "The label of this X-ray image is: Cardiomegaly, Edema",
    "grounding": "The detected opacity regions are: <box>(1,2),(300,400)</box>",
    "grounding_pixels": "<think>there it is</think><answer>[1, 2, 30, 40]</answer>",
    "closed": CLOSED,
    "open": OPEN,
}


def _rewarded(name: str, mode: str) -> Callable[[str], Any]:
    @functools.cache
    def reward() -> Reward:
        return registry.reward(name, mode, [Reference(REPORT), Reference("findings : normal . impression : none .")])

    return lambda text: reward()([text], [Reference(GOLD[name], ("pneumonia", "effusion", "edema"))])


def _compared(text: str) -> None:
    ours, theirs = facts.Facts.of(text), facts.Facts.of(REPORT)
    for one, other in ((ours, theirs), (theirs, ours)):
        list(facts.contradictions(one, other, general=True))
        list(facts.omissions(one, other))


def _read_json(text: str) -> None:
    with contextlib.suppress(replies.UnreadableReplyError):
        replies.read_json(text, repair=True)


def _answered(task: str) -> Callable[[str], Any]:
    return lambda text: answers.of_answer(task, text, "Pneumonia")


def _reasoned(task: str) -> Callable[[str], Any]:
    return lambda text: reasoning.of_output(
        task, f"<think>{text}</think><answer>edema</answer>", GOLD[task], {"label": "Pneumonia"}
    )


def _trace(task: str, text: str) -> Any:
    """A trace whose reasoning and answer are the text."""
    if task in ("closed", "open"):
        made = cot_traces.closed if task == "closed" else cot_traces.opened
        return made(pairs=[[text, "A) ❌"], ["I look", text], [text, text]])
    return cot_traces.trace(task=task, reference=GOLD[task], reasoning=text, answer=text, conclusion=text)


def _rule(task: str, check: rules.Check) -> Callable[[str], Any]:
    return lambda text: check(_trace(task, text), FILTER)


def _stated(task: str) -> Callable[[str], Any]:
    return lambda text: trace_statements.fault(_trace(task, text), text, FILTER)


def _counted(text: str) -> None:
    trace = _trace("report", text)
    statistics.Statistics().add(trace, filter_verdict(trace["id"], None))


def _judged(verdict: str) -> Callable[[str], Any]:
    settings = FilterSettings.model_validate({"verdict": verdict})
    return lambda text: trace_judge.parse(Reply(texts=[text], finish_reasons=["stop"]), settings)


FILTER = FilterSettings()
READERS: Mapping[str, Callable[[str], Any]] = {
    **{f"rewards.{name}/{mode}": _rewarded(name, mode) for name, modes in names.MODES.items() for mode in modes},
    **{f"text.facts.{task}": _answered(task) for task in reasoning.TASKS},
    **{f"text.reasoning.{task}": _reasoned(task) for task in reasoning.TASKS},
    "text.boxes.claimed": boxes.claimed,
    "text.boxes.claimed_in_any_style": boxes.claimed_in_any_style,
    "text.boxes.parse_pixels": boxes.parse_pixels,
    "text.labels.findings": labels.findings,
    "text.labels.canonical": labels.canonical,
    "text.layout.pairs": layout.pairs,
    "text.layout.first_answer": layout.first_answer,
    "text.layout.is_reasoned_single": layout.is_reasoned_single,
    "text.layout.is_reasoned_interleaved": layout.is_reasoned_interleaved,
    "text.options.listed": options.listed,
    "text.options.named": lambda text: options.named(text, ["pneumonia", "no effusion", "edema", "no"]),
    "text.prose": prose.readable,
    "rewards.released.grounding": released_grounding.says_nothing,
    "metrics.green": green.green,
    "metrics.clinical.readers": readers.normalised,
    "metrics.clinical.rubric": rubric.score,
    "metrics.repetition": repetition.variety,
    "metrics.tokens": tokens.words,
    "metrics.text": lambda text: overlap.rouge_l([text], [REPORT]),
    "metrics.clinical.graphs": graphs.radgraph_xl_words,
    "cot.filtration.wording.leak": wording.leak,
    "cot.filtration.wording.json_remains": lambda text: wording.json_remains(text, REPORT),
    "cot.filtration.wording.json_of_sources": lambda text: wording.json_remains(text, text),
    "cot.filtration.wording.non_word": lambda text: wording.non_word(text, REPORT),
    **{f"cot.filtration.rules.every/{name}": _rule("report", check) for name, check in rules._EVERY.items()},
    **{
        f"cot.filtration.rules.{task}/{name}": _rule(task, check)
        for task in ("report", "classification", "grounding", "closed", "open")
        for name, check in rules._ANSWERS[task].items()
    },
    **{f"cot.filtration.statements.{task}": _stated(task) for task in reasoning.TASKS},
    **{f"cot.filtration.judge.{verdict}": _judged(verdict) for verdict in ("word", "scored")},
    "cot.review.truth": truth.known_of(["Cardiomegaly", "Pleural Effusion/left/small"]).untruths,
    "cot.review.statistics": _counted,
    "evaluation.judge": lambda text: answer_judge.same(Reply(texts=[text], finish_reasons=["stop"])),
    "text.boxes.parse": boxes.parse,
    "cot.search.mentions": lambda text: mentions.reference_mention(text, "report", text),
    "cot.search.replies.read_json": _read_json,
    "cot.search.replies.agreement": replies.agreement,
    "cot.search.interleaved": interleaved.standard_name,
    "cot.search.evidence": lambda text: judged_before_seen([["I look", text], [text, "A) ❌"]], {"options": ["edema"]}),
    "tasks.questions.worked_answers": says_no,
    "data.reports.labeler": labeler.label,
    "data.reports.statements": statements.statements,
    "data.reports.facts": _compared,
    "data.reports.sections": sections.sections,
}


def _forget() -> None:
    for kept in _kept():
        kept.cache_clear()


@functools.cache
def _kept() -> list[Any]:
    """What keeps the results of texts; the lexicon of METEOR stays loaded."""
    parts = ("diagcot.text", "diagcot.data.reports", "diagcot.rewards", "diagcot.metrics.text")
    found = (kept for kept in gc.get_objects() if isinstance(kept, functools._lru_cache_wrapper))
    return [kept for kept in found if str(kept.__module__).startswith(parts)]


def _cpu_s(reader: Callable[[str], Any], text: str) -> float:
    """The least of up to eight runs, from empty caches: other processes can only make a run longer."""
    least = float("inf")
    for _ in range(8):
        began = time.process_time()
        reader(text)
        least = min(least, time.process_time() - began)
        if least < LIMIT_S:
            break
        _forget()
    return least


@pytest.mark.parametrize("name", READERS)
def test_a_text_that_loops_is_read_in_a_tenth_of_a_second(name: str) -> None:
    READERS[name](GOLD["open"])  # what is imported at first use
    package = next(known for known in _packages(name) if importlib.util.find_spec(known))
    known = dict.fromkeys((package, "diagcot.text", "diagcot.data.reports"))
    modules = [module for part in known for module in looping.modules_of(part)]
    for unit, text in looping.looping(modules, TEXTS, seed=zlib.crc32(name.encode())):
        assert _cpu_s(READERS[name], text) < LIMIT_S, f"{name} on {unit!r}, repeated"


def _packages(name: str) -> Iterator[str]:
    """The packages and modules that a reader's name may begin with, the innermost first."""
    parts = ["diagcot", *name.partition("/")[0].split(".")]
    for count in range(len(parts) - 1, 1, -1):
        yield ".".join(parts[:count])
