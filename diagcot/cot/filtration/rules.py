"""Rules that a trace has to keep before an expensive judge is asked: layout, words, and the answer against the reference.

The layout and the marks of interleaved traces are read by the rewards of `diagcot.rewards`, so that what is taught is
what is rewarded. Readers of `diagcot.text`; layout of CX-Mind's traces: arXiv:2508.03733.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

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

Trace = Mapping[str, Any]

CLOSED = ("closed", "binary", "single", "multi", "view", "matching", "progression")
"""Tasks whose answer is one option."""

_SECTION = re.compile(r"(findings|impression) : (?=\S)")
_TAG = re.compile(r"</?(?:think|answer|image)>", re.IGNORECASE)
_REPORT = r"(?:(?:the|this|radiology|original) )+report (?:says|said|states|stated|mentions|describes|notes|indicates)"
_MENTION = re.compile(
    r"\b(?:reference|provided|given|gold|ground.truth) (?:report|answer|label|diagnosis|conclusion|standard)s?\b"
    r"|\bground truth\b|\bthe reference\b(?! (?:line|point|level|range|study|film|examination))"
    r"|\b(?:according to|as stated in|consistent with|agrees? with|match(?:es)?|in line with) the report\b"
    rf"|\b{_REPORT}\b"
)  # of text in small letters: every step of every search is looked at, and to ignore case takes three times as long
_GOLD = re.compile(r"reference|gold|ground")
_LEAK = re.compile(
    r"<\|[^|<>]*\|>|```|\bjson\b|\b(?:answer|thinking|conclusion|report|reply) (?:so far|to review|under review)\b"
    r"|\(title, content\)|\ba reviewer\b|\bas an? (?:ai|artificial intelligence|language model)\b"
    r"|\bthe (?:prompt|instructions?|user) (?:say|ask|want|tell|request)|\bthinking steps\b",
    re.IGNORECASE,
)


class Fault(NamedTuple):
    """A rule that is broken, and how."""

    rule: str
    detail: str


Check = Callable[[Trace, FilterSettings], str | None]  # how the rule is broken, or None


def fault(trace: Trace, settings: FilterSettings) -> Fault | None:
    """The first rule that a trace breaks (docs/filtration.md lists them), or None."""
    if trace["error"]:
        return Fault("search_failed", trace["error"])
    if trace["forced"] and settings.forced == "drop":
        return Fault("forced", "the answer was given, not found")
    if settings.rules:
        for name, check in (_EVERY | _ANSWERS.get(trace["task"], _UNKNOWN)).items():
            detail = check(trace, settings)
            if detail is not None:
                return Fault(name, detail)
    return None


def written(trace: Trace) -> str:
    """What a training sample teaches to write: one thinking and one answer, or the pairs of an interleaved trace."""
    if trace["form"] == "interleaved":
        return "\n".join(trace_step(think, answer) for think, answer in trace["pairs"])
    return reasoned(trace["reasoning"], trace["answer"])


def thinking(trace: Trace) -> str:
    """All that is thought, without the answers."""
    if trace["form"] == "interleaved":
        return "\n".join(think for think, _ in trace["pairs"])
    text: str = trace["reasoning"]
    return text


def label_f1(report: str, reference: str) -> float:
    """Micro F1 of the CheXpert labels that two reports state or doubt, 0 to 1; 1 where neither has any."""
    return float(micro_f1(agreement([label(report)], [label(reference)]))[0])


def _format(trace: Trace, settings: FilterSettings) -> str | None:
    interleaved = trace["form"] == "interleaved"
    parts = [text for both in trace["pairs"] for text in both] if interleaved else [trace["reasoning"], trace["answer"]]
    if not all(part.strip() for part in parts):
        return "a thinking or an answer is empty"
    if any(_TAG.search(part) for part in parts):
        return "a tag stands inside a thinking or an answer"
    well_formed = layout.is_interleaved if interleaved else layout.is_single
    return None if well_formed(written(trace)) else "no pairs, or the same thinking twice"


def _short(trace: Trace, settings: FilterSettings) -> str | None:
    words = len(thinking(trace).split())
    return None if words >= settings.min_words else f"{words} words of {settings.min_words}"


def _long(trace: Trace, settings: FilterSettings) -> str | None:
    words = len(thinking(trace).split())
    return None if words <= settings.max_words else f"{words} words of at most {settings.max_words}"


def mention(text: str, task: str, own: str) -> str:
    """The first words of a thought that speak of a reference, in small letters; empty where there are none.

    own: the reference report and the question. A report may itself speak of a reference, and a question may be about a
    report: such words come from there.
    """
    for found in _MENTION.finditer(text.lower()):
        words = found.group()
        asked = task == "matching" and "report" in words and not _GOLD.search(words)
        if words not in own.lower() and not asked:
            return words
    return ""


def _mention(trace: Trace, settings: FilterSettings) -> str | None:
    found = mention(thinking(trace), trace["task"], f"{trace['guide']}\n{trace['question']}")
    return f"“{found}”" if found else None


def _leak(trace: Trace, settings: FilterSettings) -> str | None:
    found = _LEAK.search(written(trace))
    return f"“{found.group()}”" if found else None


def _repeats(trace: Trace, settings: FilterSettings) -> str | None:
    value = variety(thinking(trace))
    return None if value >= settings.variety else f"variety {value:.2f} of {settings.variety:g}"


def _sections(trace: Trace, settings: FilterSettings) -> str | None:
    ours, theirs = ({m.group(1) for m in _SECTION.finditer(trace[name])} for name in ("answer", "reference"))
    return None if ours >= theirs else f"no {' and no '.join(sorted(theirs - ours))}"


def _labels(trace: Trace, settings: FilterSettings) -> str | None:
    value = label_f1(trace["answer"], trace["reference"])
    return None if value >= settings.label_f1 else f"label F1 {value:.2f} of {settings.label_f1:g}"


def _label_set(trace: Trace, settings: FilterSettings) -> str | None:
    uncertain = {name for name, value in trace["meta"].get("labels", {}).items() if value == -1}
    theirs = labels.chexpert(trace["reference"])
    ours = labels.chexpert(trace["answer"]) - (uncertain - theirs)  # an uncertain label may be named or not
    value = f1(ours, theirs)
    if value >= settings.label_f1 and ours:
        return None
    return f"label F1 {value:.2f} of {settings.label_f1:g}: missing {_names(theirs - ours)}, too many {_names(ours - theirs)}"


def _boxes(trace: Trace, settings: FilterSettings) -> str | None:
    value = matched_iou(boxes.claimed(trace["answer"]), boxes.parse(trace["reference"]))
    return None if value >= settings.iou else f"matched IoU {value:.2f} of {settings.iou:g}"


def _interleaved(trace: Trace, settings: FilterSettings) -> str | None:
    return None if trace["form"] == "interleaved" else "questions are answered in pairs"


def _options(trace: Trace, settings: FilterSettings) -> str | None:
    listed = options.listed(trace["question"])
    judged = [options.judged(answer) or "?" for _, answer in trace["pairs"][:-1]]
    return None if judged == listed else f"judged {_names(judged)} of {_names(listed)}"


def _hypotheses(trace: Trace, settings: FilterSettings) -> str | None:
    first, *middle = [answer for _, answer in trace["pairs"][:-1]] or [""]
    listed = sorted(labels.findings(first))
    judged = sorted(labels.finding(answer) or "?" for answer in middle)
    return None if judged == listed else f"judged {_names(judged)} of {_names(listed)}"


def _option_score(trace: Trace) -> Score:
    letter = options.named(trace["reference"])
    steps = [
        trace_step(f"gold {option}", f"{option}) {options.RIGHT if option == letter else options.WRONG}")
        for option in options.listed(trace["question"])
    ]
    return _scored("closed", trace, "\n".join([*steps, trace_step("gold", f"{letter}) {options.RIGHT}")]))


def _disease_score(trace: Trace) -> Score:
    return _scored("open", trace, trace_step("gold", trace["reference"]))


def _scored(name: str, trace: Trace, gold: str) -> Score:
    return reward(name, "checked")([written(trace)], [Reference(gold)])[0]


def _final(score: Callable[[Trace], Score]) -> Check:
    def check(trace: Trace, settings: FilterSettings) -> str | None:
        return None if score(trace)["accuracy"] == 1 else "the last answer is not the right one"

    return check


def _marks(score: Callable[[Trace], Score]) -> Check:
    def check(trace: Trace, settings: FilterSettings) -> str | None:
        return None if score(trace)["process"] > 0 else "a step is marked wrongly"

    return check


def _names(names: Any) -> str:
    return ", ".join(sorted(names)) or "none"


_EVERY: dict[str, Check] = {
    "format": _format,
    "reasoning_too_short": _short,
    "reasoning_too_long": _long,
    "repetitive": _repeats,
    "leaked_prompt": _leak,
    "mentions_reference": _mention,
}
_CLOSED: dict[str, Check] = {
    "not_interleaved": _interleaved,
    "options_not_judged": _options,
    "answer_wrong": _final(_option_score),
    "marks_wrong": _marks(_option_score),
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
    },
    **dict.fromkeys(CLOSED, _CLOSED),
}
_UNKNOWN: dict[str, Check] = {"unknown_task": lambda trace, settings: f"there are no rules for {trace['task']}"}
