"""The judge of DiagCoT's filtration (arXiv:2509.06409): its requests, the parsing of its replies, and the decision.

Five criteria, each with a reason and a score of 1 to 5. Repeated judgements are one request for several replies, so
that the server computes images and text once.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from diagcot.cot.records import TraceRecord
from diagcot.cot.search import prompts
from diagcot.cot.settings import FilterSettings
from diagcot.jobs.state import json_text
from diagcot.serving import Reply, Request

CRITERIA = ("location", "pathology", "completeness", "differential", "reasoning")
"""The criteria of a judgement."""

SCORES = (1, 2, 3, 4, 5)

_TRUTH = re.compile(r"\b(true|false)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Judgement:
    """One reply of the judge. `error` gives the reason if it could not be parsed; then it does not keep the trace."""

    keep: bool
    scores: dict[str, int] = field(default_factory=dict)  # criterion -> 1 to 5; empty for a one-word verdict
    reasons: dict[str, str] = field(default_factory=dict)
    held: tuple[str, ...] = ()  # criteria whose score is at least `FilterSettings.score`
    error: str | None = None


def trace_prompt(trace: TraceRecord, settings: FilterSettings) -> str:
    """The judge's prompt about a trace; for an answer that is not a report it contains the question and the gold answer."""
    report, texts = trace["task"] == "report", settings.prompts
    head = prompts.head(len(trace["images"]), trace["guide"], "" if report else trace["question"], texts)
    if not settings.image:
        head = head.without_images
    thinking = trace["reasoning"]
    if trace["form"] == "interleaved":
        thinking = "\n".join(f"{think} So: {answer}" for think, answer in trace["pairs"])
    name, gold = ("Report", "") if report else ("Answer", trace["reference"])
    return prompts.judge(head, thinking, name, trace["answer"], gold, settings.verdict, texts)


def schema(reason_chars: int) -> dict[str, Any]:
    """JSON schema of a reply: for each criterion the reason, then the score that follows from it."""
    criterion = _object({"reason": {"type": "string", "minLength": 1, "maxLength": reason_chars}, "score": _SCORE})
    return _object(dict.fromkeys(CRITERIA, criterion))


def request(trace: TraceRecord, images: Sequence[bytes], settings: FilterSettings, seed: int) -> Request:
    """All judgements of a trace in one request. images: JPEG, sent only if the judge sees images."""
    repeated = settings.repeats > 1
    return Request(
        id=trace["id"],
        messages=(
            *(prompts.system(settings.prompts) if settings.image else ()),
            ("user", trace_prompt(trace, settings)),
        ),
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
        row = json_text.parse_json(text, strict=False)
        scores = {name: row[name]["score"] for name in CRITERIA}
        reasons = {name: " ".join(row[name]["reason"].split()) for name in CRITERIA}
        if any(type(score) is not int or score not in SCORES for score in scores.values()):
            raise ValueError("score")
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
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
