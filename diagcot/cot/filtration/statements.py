"""Rules about what a trace states: reasoning, findings and impression against the reference, and against each other.

One reader of statements (`diagcot.data.reports.facts`) reads all texts. What a reasoning takes back itself counts as not
said; what the reference leaves open, or in doubt, contradicts nothing.
"""

from collections.abc import Iterator

from diagcot.cot.records import Fault, TraceRecord
from diagcot.cot.settings import FilterSettings
from diagcot.data.reports.facts import Difference, Facts, contradictions, omissions, sides
from diagcot.data.reports.statements import Statement
from diagcot.text.facts import of_answer, sections

_QUESTIONS = ("closed", "binary", "single", "multi", "open")
"""Questions about the findings of one study; those about several studies, or about another report, are not compared."""


def fault(trace: TraceRecord, reasoning: str, settings: FilterSettings) -> Fault | None:
    """The first statement of a trace that is untrue, or missing, as the broken rule, such as `reasoning_wrong_side`."""
    return next((fault for fault, aspect in _faults(trace, Facts.of(reasoning)) if aspect in settings.compare), None)


def _faults(trace: TraceRecord, reasoning: Facts) -> Iterator[tuple[Fault, str]]:
    """Every fault and the aspect that it concerns."""
    if trace["task"] == "report":
        yield from _report(trace, reasoning)
    elif trace["task"] in ("classification", "grounding"):
        yield from _answered(trace, reasoning)
    elif trace["task"] in _QUESTIONS:
        gold = _joined(Facts.of(trace["guide"]), _gold(trace))
        yield from _named("reasoning", "wrong", contradictions(reasoning, gold, general=True))


def _report(trace: TraceRecord, reasoning: Facts) -> Iterator[tuple[Fault, str]]:
    reference = Facts.of(trace["reference"])
    yield from _named("reasoning", "wrong", contradictions(reasoning, reference, general=True))
    yield from _named("reasoning", "missing", omissions(reasoning, reference, general=True))
    ours, theirs = sections(trace["answer"]), sections(trace["reference"])
    for part in ours or {"report": trace["answer"]}:
        said = Facts.of(ours.get(part, trace["answer"]))
        yield from _named(part, "wrong", contradictions(said, reference))
        if part in theirs or not theirs:
            yield from _named(part, "missing", omissions(said, Facts.of(theirs.get(part, trace["reference"]))))
    if len(ours) == len(theirs) == 2:
        yield from _between(ours, theirs)
    answer = Facts.of(trace["answer"])
    for difference in contradictions(reasoning, answer, general=True):
        yield Fault("reasoning_contradicts_answer", difference.words), difference.aspect
    conclusion = Facts.of(trace["conclusion"])
    for difference in (*contradictions(conclusion, answer, general=True), *omissions(answer, conclusion, general=True)):
        yield Fault("answer_differs_from_conclusion", difference.words), difference.aspect


def _between(ours: dict[str, str], theirs: dict[str, str]) -> Iterator[tuple[Fault, str]]:
    """Findings and impression of one answer, where those of the reference agree."""
    findings, impression = (Facts.of(ours[name]) for name in ("findings", "impression"))
    gold_findings, gold_impression = (Facts.of(theirs[name]) for name in ("findings", "impression"))
    for name in dict.fromkeys((*findings.present(), *impression.present())):
        if bool(gold_findings.claims(name)) != bool(gold_impression.claims(name)):
            continue
        here, there = findings.claims(name), impression.claims(name)
        if not here or not there:
            section = "findings" if here else "impression"
            yield Fault("findings_contradict_impression", f"{name} in the {section} alone"), "label"
        elif _sides_differ(here, there) and not _sides_differ(gold_findings.claims(name), gold_impression.claims(name)):
            yield Fault("findings_contradict_impression", f"{here[0]}, {there[0]}"), "side"


def _sides_differ(here: list[Statement], there: list[Statement]) -> bool:
    return bool(sides(here) and sides(there)) and sides(here) != sides(there)


def _answered(trace: TraceRecord, reasoning: Facts) -> Iterator[tuple[Fault, str]]:
    """Reasoning about labels or boxes: against the reference report, and against the gold answer."""
    gold, guide = _gold(trace), Facts.of(trace["guide"])
    both = _joined(gold, guide)
    yield from _named("reasoning", "wrong", contradictions(reasoning, both, general=True))
    expected = [one for one in gold.standing if one.status == 1 and (guide.claims(one.name) or one.side)]
    yield from _named("reasoning", "missing", omissions(reasoning, Facts.given(expected), general=True))


def _gold(trace: TraceRecord) -> Facts:
    """The facts of the gold answer, and the labels of the study that are in doubt."""
    meta = trace["meta"]
    gold = of_answer(trace["task"], trace["reference"], str(meta.get("label", "")))
    doubtful = {name: value for name, value in meta.get("labels", {}).items() if value == -1}
    return _joined(gold, Facts.of_labels(doubtful))


def _joined(first: Facts, second: Facts) -> Facts:
    return Facts((*first.standing, *second.standing))


def _named(part: str, how: str, found: Iterator[Difference]) -> Iterator[tuple[Fault, str]]:
    for difference in found:
        yield Fault(f"{part}_{how}_{difference.aspect}", difference.words), difference.aspect
