"""The JSON that the teacher and the verifier answer with (method.md 4.1, 7.3).

Every string and array is bounded: an unsure model otherwise writes on until its tokens are spent.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Limits:
    """Bounds of a reply: its steps, the characters of a step or reason, and those of a conclusion or section."""

    steps: int = 12
    step_chars: int = 600
    section_chars: int = 2000


def thinking(limits: Limits, again: bool = False) -> dict[str, Any]:
    """Reply to init and label: thinking, conclusion, check. Thinking again begins with the check."""
    step = _object({"title": _string(80), "content": _string(limits.step_chars)})
    steps = {"type": "array", "items": step, "minItems": 1, "maxItems": limits.steps}
    rest = {"thinking": steps, "conclusion": _string(limits.section_chars)}
    check = {"check": _string(limits.step_chars)}
    return _object(check | rest if again else rest | check)


def verdict(limits: Limits) -> dict[str, Any]:
    """The reason comes first, so that the verdict follows from it."""
    return _object({"reason": _string(limits.step_chars), "verdict": {"type": "boolean"}})


def final(limits: Limits, names: Sequence[str] = ("findings", "impression")) -> dict[str, Any]:
    return _object({name: _string(limits.section_chars) for name in names})


def closed(limits: Limits, letters: Sequence[str]) -> dict[str, Any]:
    """One judgement for each option of the question, by its letter, and the summary."""
    weighed = _object({"think": _string(limits.step_chars), "right": {"type": "boolean"}})
    return _object(dict.fromkeys(letters, weighed) | {"summary": _string(limits.step_chars)})


def opened(limits: Limits) -> dict[str, Any]:
    """What is observed, the hypotheses and their judgements, and the summary."""
    weighed = _object({"name": _string(80), "think": _string(limits.step_chars), "right": {"type": "boolean"}})
    steps = {"type": "array", "items": weighed, "minItems": 1, "maxItems": limits.steps}
    return _object({"observed": _string(limits.step_chars), "weighed": steps, "summary": _string(limits.step_chars)})


def layout(schema: dict[str, Any]) -> str:
    """A schema as a sentence, for a server that does not hold the reply to it."""
    return f" Keep to this layout: {json.dumps(_skeleton(schema), ensure_ascii=False)}"


def _string(most: int) -> dict[str, Any]:
    return {"type": "string", "minLength": 1, "maxLength": most}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _skeleton(schema: dict[str, Any]) -> Any:
    if schema["type"] == "object":
        return {name: _skeleton(one) for name, one in schema["properties"].items()}
    if schema["type"] == "array":
        return [_skeleton(schema["items"])]
    return True if schema["type"] == "boolean" else "..."
