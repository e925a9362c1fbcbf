"""The judge: what it is asked about a trace, how its replies are read, and what they decide (method.md 4.2).

Five criteria, each with a reason and a score of 1 to 5. Repeated judgements are one request for several replies, so
that the server computes films and texts once; they are sampled with a seed each.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from diagcot.cot.search import prompts
from diagcot.cot.settings import FilterSettings
from diagcot.serving import Reply, Request
from diagcot.tasks.prompts import IMAGE

CRITERIA = ("location", "pathology", "completeness", "differential", "reasoning")
"""What the judge decides on."""

SCORES = (1, 2, 3, 4, 5)

_RIGHT = "Right answer: {reference}\n"
_SHOWN = "Thinking under review:\n{reasoning}\n{name} under review: {answer}\n"
_SCORED = (
    "Judge it against the reference{film}. Of each give the reason, then a score from 1, wrong, to 5, right: location of "
    "every finding, pathology and its degree, completeness, differential, sound reasoning. Synonyms are fine; a wrong "
    "location never is. Answer in JSON."
)
_WORD = (
    "Does it agree with the reference in the location of every finding, pathology and its degree, completeness, "
    "differential and sound reasoning? Synonyms are fine; a wrong location never is. Answer true or false, nothing else."
)
_TRUTH = re.compile(r"\b(true|false)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Judgement:
    """One reply of the judge. `error` says why it could not be read; then it keeps nothing."""

    keep: bool
    scores: dict[str, int] = field(default_factory=dict)  # criterion -> 1 to 5; none of a word
    reasons: dict[str, str] = field(default_factory=dict)
    held: tuple[str, ...] = ()  # criteria whose score is high enough
    error: str | None = None


def prompt(head: str, reasoning: str, name: str, answer: str, verdict: str = "scored") -> str:
    """The judge's question. head: what is shown of the case (`prompts.head`), which comes first, as in the search's
    prompts; name: what the answer is called; verdict: `scored` or `word`."""
    film = " and the X-ray" if IMAGE in head else ""
    shown = _SHOWN.format(reasoning=reasoning, name=name, answer=answer)
    return head + shown + (_WORD if verdict == "word" else _SCORED.format(film=film))


def about(trace: dict[str, Any], settings: FilterSettings) -> str:
    """The judge's question about a trace; of an answer that is no report it is told the question and the right one."""
    report = trace["task"] == "report"
    head = prompts.head(len(trace["images"]), trace["guide"], "" if report else trace["question"])
    if not report:
        head += _RIGHT.format(reference=trace["reference"])
    if not settings.image:
        head = head.replace(IMAGE, "")
    thinking = trace["reasoning"]
    if trace["form"] == "interleaved":
        thinking = "\n".join(f"{think} So: {answer}" for think, answer in trace["pairs"])
    return prompt(head, thinking, "Report" if report else "Answer", trace["answer"], settings.verdict)


def schema(reason_chars: int) -> dict[str, Any]:
    """A reply: for each criterion the reason, then the score that follows from it."""
    one = _object({"reason": {"type": "string", "minLength": 1, "maxLength": reason_chars}, "score": _SCORE})
    return _object(dict.fromkeys(CRITERIA, one))


def request(trace: dict[str, Any], films: Sequence[bytes], settings: FilterSettings, seed: int) -> Request:
    """All judgements of a trace in one request. films: JPEG, used if the judge sees films."""
    repeated = settings.repeats > 1
    return Request(
        id=trace["id"],
        messages=(("user", about(trace, settings)),),
        images=tuple(films) if settings.image else (),
        max_tokens=settings.max_tokens,
        temperature=settings.temperature if repeated else 0.0,
        n=settings.repeats,
        seed=seed if repeated else None,
        schema=schema(settings.reason_chars) if settings.verdict == "scored" else None,
    )


def read(reply: Reply, settings: FilterSettings) -> list[Judgement]:
    """The judgements of a reply, one for each that was asked for."""
    if reply.error:
        return [Judgement(False, error=reply.error)] * settings.repeats
    one = _word if settings.verdict == "word" else _scored
    return [one(text, end, settings) for text, end in zip(reply.texts, reply.finish, strict=True)]


def _word(text: str, finish: str, settings: FilterSettings) -> Judgement:
    found = _TRUTH.search(text)
    if found is None:
        return Judgement(False, error="the reply is neither true nor false")
    return Judgement(found.group(1).lower() == "true")


def _scored(text: str, finish: str, settings: FilterSettings) -> Judgement:
    if finish == "length":
        return Judgement(False, error=f"the reply was cut at {settings.max_tokens} tokens")
    try:
        row = json.loads(text, strict=False)
        scores = {name: row[name]["score"] for name in CRITERIA}
        reasons = {name: " ".join(row[name]["reason"].split()) for name in CRITERIA}
        if any(type(score) is not int or score not in SCORES for score in scores.values()):
            raise ValueError("score")
    except (ValueError, LookupError, TypeError, AttributeError):
        return Judgement(False, error="the reply is not as asked")
    held = tuple(name for name, score in scores.items() if score >= settings.score)
    return Judgement(len(held) >= settings.criteria, scores, reasons, held)


def keeps(judgements: Sequence[Judgement], settings: FilterSettings) -> bool:
    """Whether more than half of the judgements keep the trace; a judge that is only heard keeps every one."""
    return settings.criteria == 0 or 2 * sum(one.keep for one in judgements) > len(judgements)


_SCORE = {"type": "integer", "enum": list(SCORES)}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
