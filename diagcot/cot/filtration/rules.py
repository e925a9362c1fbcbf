"""Rules that a trace must pass before the judge, which is expensive: layout, wording, and the answer against the reference.

`statements` has those about what reasoning and answer state.

The readers of `diagcot.text` parse a trace as the rewards do, so that what is taught is what is rewarded. Layout of
interleaved traces: CX-Mind, arXiv:2508.03733.
"""

import re
from collections.abc import Callable
from typing import Any

from diagcot.cot.filtration import statements, wording
from diagcot.cot.records import Fault, TraceRecord
from diagcot.cot.search.evidence import judged_before_seen
from diagcot.cot.search.mentions import reference_mention
from diagcot.cot.settings import FilterSettings
from diagcot.data.reports.labeler import label
from diagcot.metrics.boxes import matched_iou
from diagcot.metrics.labels import agreement, micro_f1
from diagcot.metrics.repetition import variety
from diagcot.metrics.sets import f1
from diagcot.rewards.registry import reward
from diagcot.rewards.score import Reference, Score
from diagcot.tasks.prompts import reasoned
from diagcot.tasks.questions.worked_answers import trace_step
from diagcot.text import boxes, labels, layout, options

CLOSED = ("closed", "binary", "single", "multi", "view", "matching", "progression", "combined")
"""Tasks whose answer is one option."""

_SECTION = re.compile(r"(findings|impression) : (?=\S)")
_TAG = re.compile(r"</?(?:think|answer|image)>", re.IGNORECASE)
Check = Callable[[TraceRecord, FilterSettings], str | None]  # the detail if the rule is broken, else None


def fault(trace: TraceRecord, settings: FilterSettings) -> Fault | None:
    """The first rule that a trace breaks (docs/filtration.md lists them), or None."""
    if trace["error"]:
        return Fault("search_failed", trace["error"])
    if trace["forced"] and settings.forced == "drop":
        return Fault("forced", "the gold answer was given to the teacher")
    if settings.rules:
        for name, check in (_EVERY | _ANSWERS.get(trace["task"], _UNKNOWN)).items():
            detail = check(trace, settings)
            if detail is not None:
                return Fault(name, detail)
        return statements.fault(trace, thinking(trace), settings)
    return None


def written(trace: TraceRecord) -> str:
    """The text that a training sample teaches: one reasoning and one answer, or the pairs of an interleaved trace."""
    if trace["form"] == "interleaved":
        return "\n".join(trace_step(think, answer) for think, answer in trace["pairs"])
    return reasoned(trace["reasoning"], trace["answer"])


def thinking(trace: TraceRecord) -> str:
    """The reasoning of a trace, without the answers."""
    if trace["form"] == "interleaved":
        return "\n".join(think for think, _ in trace["pairs"])
    text: str = trace["reasoning"]
    return text


def _sources(trace: TraceRecord) -> str:
    """The texts that the teacher was given."""
    return f"{trace['guide']}\n{trace['question']}"


def label_f1(report: str, reference: str) -> float:
    """Micro F1 of the CheXpert labels that two reports state or leave uncertain, 0 to 1; 1 if neither has any."""
    return float(micro_f1(agreement([label(report)], [label(reference)]))[0])


def _format(trace: TraceRecord, settings: FilterSettings) -> str | None:
    interleaved = trace["form"] == "interleaved"
    parts = [text for both in trace["pairs"] for text in both] if interleaved else [trace["reasoning"], trace["answer"]]
    if not all(part.strip() for part in parts):
        return "a reasoning or an answer is empty"
    if any(_TAG.search(part) for part in parts):
        return "a tag occurs inside a reasoning or an answer"
    well_formed = layout.is_interleaved if interleaved else layout.is_single
    return None if well_formed(written(trace)) else "no pairs, or the same reasoning twice"


def _short(trace: TraceRecord, settings: FilterSettings) -> str | None:
    words = len(thinking(trace).split())
    return None if words >= settings.min_words else f"{words} words, at least {settings.min_words} required"


def _long(trace: TraceRecord, settings: FilterSettings) -> str | None:
    words = len(thinking(trace).split())
    return None if words <= settings.max_words else f"{words} words, at most {settings.max_words} allowed"


def _mention(trace: TraceRecord, settings: FilterSettings) -> str | None:
    words = reference_mention(thinking(trace), trace["task"], _sources(trace))
    return f"“{words}”" if words else None


def _leak(trace: TraceRecord, settings: FilterSettings) -> str | None:
    words = wording.leak(written(trace))
    return f"“{words}”" if words else None


def _json(trace: TraceRecord, settings: FilterSettings) -> str | None:
    prose = trace["task"] == "report"
    text = f"{thinking(trace)}\n{trace['answer']}" if prose else thinking(trace)
    words = wording.json_remains(text, _sources(trace), brackets=prose)
    return f"“{words}”" if words else None


def _non_word(trace: TraceRecord, settings: FilterSettings) -> str | None:
    word = wording.non_word(f"{thinking(trace)}\n{trace['answer']}", _sources(trace))
    return f"“{word}”" if word else None


def _repeats(trace: TraceRecord, settings: FilterSettings) -> str | None:
    value = variety(thinking(trace))
    return None if value >= settings.variety else f"variety {value:.2f} of {settings.variety:g}"


def _sections(trace: TraceRecord, settings: FilterSettings) -> str | None:
    ours, theirs = ({m.group(1) for m in _SECTION.finditer(trace[name])} for name in ("answer", "reference"))
    return None if ours >= theirs else f"no {' and no '.join(sorted(theirs - ours))}"


def _labels(trace: TraceRecord, settings: FilterSettings) -> str | None:
    value = label_f1(trace["answer"], trace["reference"])
    return None if value >= settings.label_f1 else f"label F1 {value:.2f} of {settings.label_f1:g}"


def _label_set(trace: TraceRecord, settings: FilterSettings) -> str | None:
    uncertain = {name for name, value in trace["meta"].get("labels", {}).items() if value == -1}
    theirs = labels.chexpert(trace["reference"])
    ours = labels.chexpert(trace["answer"]) - (uncertain - theirs)  # an uncertain label may be present or absent
    value = f1(ours, theirs)
    if value >= settings.label_f1 and ours:
        return None
    return (
        f"label F1 {value:.2f} of {settings.label_f1:g}: missing {_names(theirs - ours)}, extra {_names(ours - theirs)}"
    )


def _boxes(trace: TraceRecord, settings: FilterSettings) -> str | None:
    value = matched_iou(boxes.claimed(trace["answer"]), boxes.parse(trace["reference"]))
    return None if value >= settings.iou else f"matched IoU {value:.2f} of {settings.iou:g}"


def _interleaved(trace: TraceRecord, settings: FilterSettings) -> str | None:
    return None if trace["form"] == "interleaved" else "the answer to a question must consist of pairs"


def _options(trace: TraceRecord, settings: FilterSettings) -> str | None:
    listed = options.listed(trace["question"])
    assessed = [options.judged(answer) or "?" for _, answer in trace["pairs"][:-1]]
    return None if sorted(assessed) == listed else f"assessed {_names(assessed)} of {_names(listed)}"


def _hypotheses(trace: TraceRecord, settings: FilterSettings) -> str | None:
    first, *middle = [answer for _, answer in trace["pairs"][:-1]] or [""]
    listed = sorted(labels.findings(first))
    assessed = sorted(labels.finding(answer) or "?" for answer in middle)
    return None if assessed == listed else f"assessed {_names(assessed)} of {_names(listed)}"


def _order(trace: TraceRecord, settings: FilterSettings) -> str | None:
    return judged_before_seen(trace["pairs"], trace["meta"]) or None


def _option_score(trace: TraceRecord) -> Score:
    letter = options.named(trace["reference"])
    steps = [
        trace_step(f"gold {option}", f"{option}) {options.RIGHT if option == letter else options.WRONG}")
        for option in options.listed(trace["question"])
    ]
    return _scored("closed", trace, "\n".join([*steps, trace_step("gold", f"{letter}) {options.RIGHT}")]))


def _disease_score(trace: TraceRecord) -> Score:
    return _scored("open", trace, trace_step("gold", trace["reference"]))


def _scored(name: str, trace: TraceRecord, gold: str) -> Score:
    return reward(name, "checked")([written(trace)], [Reference(gold)])[0]


def _final(score: Callable[[TraceRecord], Score]) -> Check:
    def check(trace: TraceRecord, settings: FilterSettings) -> str | None:
        return None if score(trace)["accuracy"] == 1 else "the last answer is not the correct one"

    return check


def _marks(score: Callable[[TraceRecord], Score]) -> Check:
    def check(trace: TraceRecord, settings: FilterSettings) -> str | None:
        return None if score(trace)["process"] > 0 else "a step is marked incorrectly"

    return check


def _names(names: Any) -> str:
    return ", ".join(sorted(names)) or "none"


_EVERY: dict[str, Check] = {
    "format": _format,
    "reasoning_too_short": _short,
    "reasoning_too_long": _long,
    "repetitive": _repeats,
    "leaked_prompt": _leak,
    "json_remains": _json,
    "non_word": _non_word,
    "mentions_reference": _mention,
}
_CLOSED: dict[str, Check] = {
    "not_interleaved": _interleaved,
    "options_not_judged": _options,
    "answer_wrong": _final(_option_score),
    "marks_wrong": _marks(_option_score),
    "judged_before_seen": _order,
}
_ANSWERS: dict[str, dict[str, Check]] = {
    "report": {"section_missing": _sections, "labels_differ": _labels},
    "classification": {"labels_differ": _label_set},
    "grounding": {"boxes_differ": _boxes},
    "open": {
        "not_interleaved": _interleaved,
        "options_not_judged": _hypotheses,
        "answer_wrong": _final(_disease_score),
        "marks_wrong": _marks(_disease_score),
        "judged_before_seen": _order,
    },
    **dict.fromkeys(CLOSED, _CLOSED),
}
_UNKNOWN: dict[str, Check] = {"unknown_task": lambda trace, settings: f"there are no rules for {trace['task']}"}
