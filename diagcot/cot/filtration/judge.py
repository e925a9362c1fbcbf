"""The judge of DiagCoT's filtration (arXiv:2509.06409): its prompt, the parsing of its replies, and the decision.

Five criteria, each with a reason and a score of 1 to 5. Repeated judgements are one request for several replies, so
that the server computes images and text once.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from diagcot.cot.records import TraceRecord
from diagcot.cot.search import prompts
from diagcot.cot.settings import FilterSettings
from diagcot.serving import Reply, Request
from diagcot.tasks.prompts import IMAGE

CRITERIA = ("location", "pathology", "completeness", "differential", "reasoning")
"""The criteria of a judgement."""

SCORES = (1, 2, 3, 4, 5)

_GOLD = "Correct answer: {reference}\n"
_REVIEWED = "Reasoning under review:\n{reasoning}\n{name} under review: {answer}\n"
_SCORED = (
    "Compare it with the reference report{image}. For each criterion give a reason, then a score from 1 (wrong) to 5 "
    "(correct): location of every finding, pathology and its severity, completeness, differential diagnosis, soundness "
    "of the reasoning. Accept synonyms; never accept a wrong location. Answer in JSON."
)
_WORD = (
    "Does it agree with the reference report in the location of every finding, the pathology and its severity, "
    "completeness, differential diagnosis and soundness of the reasoning? Accept synonyms; never accept a wrong "
    "location. Answer true or false, nothing else."
)
_TRUTH = re.compile(r"\b(true|false)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Judgement:
    """One reply of the judge. `error` gives the reason if it could not be parsed; then it does not keep the trace."""

    keep: bool
    scores: dict[str, int] = field(default_factory=dict)  # criterion -> 1 to 5; empty for a one-word verdict
    reasons: dict[str, str] = field(default_factory=dict)
    held: tuple[str, ...] = ()  # criteria whose score is at least `FilterSettings.score`
    error: str | None = None


def prompt(head: str, reasoning: str, name: str, answer: str, verdict: str = "scored") -> str:
    """The judge's prompt. head: the beginning that the prompts of the search share (`prompts.head`); name: what the
    answer is called; verdict: `scored` or `word`."""
    image = " and the X-ray" if IMAGE in head else ""
    reviewed = _REVIEWED.format(reasoning=reasoning, name=name, answer=answer)
    return head + reviewed + (_WORD if verdict == "word" else _SCORED.format(image=image))


def trace_prompt(trace: TraceRecord, settings: FilterSettings) -> str:
    """The judge's prompt about a trace; for an answer that is not a report it contains the question and the gold answer."""
    report = trace["task"] == "report"
    head = prompts.head(len(trace["images"]), trace["guide"], "" if report else trace["question"])
    if not report:
        head += _GOLD.format(reference=trace["reference"])
    if not settings.image:
        head = head.replace(IMAGE, "")
    thinking = trace["reasoning"]
    if trace["form"] == "interleaved":
        thinking = "\n".join(f"{think} So: {answer}" for think, answer in trace["pairs"])
    return prompt(head, thinking, "Report" if report else "Answer", trace["answer"], settings.verdict)


def schema(reason_chars: int) -> dict[str, Any]:
    """JSON schema of a reply: for each criterion the reason, then the score that follows from it."""
    criterion = _object({"reason": {"type": "string", "minLength": 1, "maxLength": reason_chars}, "score": _SCORE})
    return _object(dict.fromkeys(CRITERIA, criterion))


def request(trace: TraceRecord, images: Sequence[bytes], settings: FilterSettings, seed: int) -> Request:
    """All judgements of a trace in one request. images: JPEG, sent only if the judge sees images."""
    repeated = settings.repeats > 1
    return Request(
        id=trace["id"],
        messages=(("user", trace_prompt(trace, settings)),),
        images=tuple(images) if settings.image else (),
        max_tokens=settings.max_tokens,
        temperature=settings.temperature if repeated else 0.0,
        n=settings.repeats,
        seed=seed if repeated else None,
        schema=schema(settings.reason_chars) if settings.verdict == "scored" else None,
    )


def parse(reply: Reply, settings: FilterSettings) -> list[Judgement]:
    """The judgements of a reply, one for each requested repetition."""
    if reply.error:
        return [Judgement(False, error=reply.error)] * settings.repeats
    parse_text = _word if settings.verdict == "word" else _scored
    return [parse_text(text, finish, settings) for text, finish in zip(reply.texts, reply.finish_reasons, strict=True)]


def _word(text: str, finish: str, settings: FilterSettings) -> Judgement:
    match = _TRUTH.search(text)
    if match is None:
        return Judgement(False, error="the reply is neither true nor false")
    return Judgement(match.group(1).lower() == "true")


def _scored(text: str, finish: str, settings: FilterSettings) -> Judgement:
    if finish == "length":
        return Judgement(False, error=f"the reply was cut off at {settings.max_tokens} tokens")
    try:
        row = json.loads(text, strict=False)
        scores = {name: row[name]["score"] for name in CRITERIA}
        reasons = {name: " ".join(row[name]["reason"].split()) for name in CRITERIA}
        if any(type(score) is not int or score not in SCORES for score in scores.values()):
            raise ValueError("score")
    except (ValueError, LookupError, TypeError, AttributeError):
        return Judgement(False, error="the reply does not follow the schema")
    held = tuple(name for name, score in scores.items() if score >= settings.score)
    return Judgement(len(held) >= settings.criteria, scores, reasons, held)


def keeps(judgements: Sequence[Judgement], settings: FilterSettings) -> bool:
    """Whether more than half of the judgements keep the trace; with `criteria: 0` every trace is kept."""
    return settings.criteria == 0 or 2 * sum(judgement.keep for judgement in judgements) > len(judgements)


_SCORE = {"type": "integer", "enum": list(SCORES)}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
