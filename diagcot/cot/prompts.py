"""What the teacher and the verifier are asked, and the JSON that they answer with (method.md 4.1, 4.2).

Every prompt begins with the film and the reference report and ends with what changes most, so that the prefix cache of
the server holds what all calls of a sample share. The words are this project's own. Every string and array of a schema
is bounded: an unsure model otherwise writes on until its tokens are spent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

STRATEGIES = ("new_paths", "verification", "correction", "backtracking")
"""The four ways to think again. Backtracking needs something to go back to: it is not for the first step."""

_HEAD = "<image>Reference report: {reference}\n"

_INIT = (
    "Read this chest X-ray as a radiologist would, region by region, and let your thinking lead to what the reference "
    "report says, without naming it. Give the thinking steps (title, content), then the conclusion (findings and "
    "impression), then a check of the conclusion. Answer in JSON."
)
_LABEL = (
    "The reference report is the correct diagnosis. Write the thinking, region by region, that leads from the X-ray to "
    "it, as if you had found it yourself. Give the thinking steps (title, content), the conclusion and a check of it. "
    "Answer in JSON."
)
_VERIFY = (
    "Conclusion to review: {conclusion}\n"
    "Is every key finding of the reference in this conclusion, nothing added, and the impression the same? "
    "Answer in JSON: verdict true or false, and the reason."
)
_RETHINK = (
    "Thinking so far:\n{thinking}\n"
    "A reviewer found the conclusion wrong. First check what went wrong, then give new thinking steps (title, content) "
    "and a new conclusion, without naming the reference report. Answer in JSON. {strategy}"
)
_STRATEGY = {
    "new_paths": "Read the X-ray in a way that you have not tried yet.",
    "verification": "Test each of your statements against the X-ray.",
    "correction": "Find the exact mistakes and put them right.",
    "backtracking": "Go back to an earlier step and go on from there.",
}
_REWRITE = (
    "Thinking steps:\n{thinking}\n"
    "Tell this thinking as one person's natural train of thought, in the first person, one line for each region, "
    "without headings. Leave out mistakes that were mended. Do not mention a reference."
)
_FINAL = (
    "Thinking:\n{reasoning}\n"
    "Write the report that this thinking leads to, in the words of the reference: findings are what is seen, the "
    "impression is its meaning in brief. Answer in JSON."
)


@dataclass(frozen=True)
class Limits:
    """Bounds of a reply: its steps, the characters of a step or reason, and those of a conclusion or section."""

    steps: int = 12
    step_chars: int = 600
    section_chars: int = 2000


def init(reference: str) -> str:
    return _HEAD.format(reference=reference) + _INIT


def label(reference: str) -> str:
    return _HEAD.format(reference=reference) + _LABEL


def verify(reference: str, conclusion: str) -> str:
    return _HEAD.format(reference=reference) + _VERIFY.format(conclusion=conclusion)


def rethink(reference: str, thinking: str, strategy: str) -> str:
    return _HEAD.format(reference=reference) + _RETHINK.format(thinking=thinking, strategy=_STRATEGY[strategy])


def rewrite(reference: str, thinking: str) -> str:
    return _HEAD.format(reference=reference) + _REWRITE.format(thinking=thinking)


def final(reference: str, reasoning: str) -> str:
    return _HEAD.format(reference=reference) + _FINAL.format(reasoning=reasoning)


def thinking_text(steps: Sequence[tuple[str, str]]) -> str:
    """Steps (title, content) as the later prompts show them, one line each."""
    return "\n".join(f"{title}: {content}" for title, content in steps)


def thinking_schema(limits: Limits, again: bool = False) -> dict[str, Any]:
    """Reply to init and label: thinking, conclusion, check. Thinking again begins with the check."""
    step = _object({"title": _string(80), "content": _string(limits.step_chars)})
    steps = {"type": "array", "items": step, "minItems": 1, "maxItems": limits.steps}
    rest = {"thinking": steps, "conclusion": _string(limits.section_chars)}
    check = {"check": _string(limits.step_chars)}
    return _object(check | rest if again else rest | check)


def verdict_schema(limits: Limits) -> dict[str, Any]:
    return _object({"verdict": {"type": "boolean"}, "reason": _string(limits.step_chars)})


def final_schema(limits: Limits) -> dict[str, Any]:
    return _object({"findings": _string(limits.section_chars), "impression": _string(limits.section_chars)})


def _string(most: int) -> dict[str, Any]:
    return {"type": "string", "minLength": 1, "maxLength": most}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
