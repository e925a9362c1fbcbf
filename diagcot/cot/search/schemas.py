"""JSON schemas of the replies of teacher and verifier.

Every string and array is bounded: a model without enough training otherwise generates until its token limit.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Limits:
    """Bounds of a reply: number of steps, characters of a step or reason, characters of a conclusion or section."""

    steps: int = 8
    step_chars: int = 300
    section_chars: int = 1000


def thinking(limits: Limits, sections: Sequence[str] = (), check_first: bool = False) -> dict[str, Any]:
    """Reply to init: thinking, conclusion, check. A rethinking reply begins with the check (`check_first`).

    sections: names of the texts that the conclusion consists of; without them it is one text.
    """
    conclusion = final(limits, sections) if sections else _string(limits.section_chars)
    rest = {"thinking": _steps(limits), "conclusion": conclusion}
    check = {"check": _string(limits.step_chars)}
    return _object(check | rest if check_first else rest | check)


def continued(limits: Limits) -> dict[str, Any]:
    """Reply to label: what was wrong, and the thinking that leads to the answer that was given."""
    return _object({"check": _string(limits.step_chars), "thinking": _steps(limits)})


def verdict(limits: Limits) -> dict[str, Any]:
    """Reply of the verifier. The reason comes first, so that the verdict follows from it."""
    return _object({"reason": _string(limits.step_chars), "verdict": {"type": "boolean"}})


def final(limits: Limits, names: Sequence[str] = ("findings", "impression")) -> dict[str, Any]:
    """Reply to final: one string for each section of the report."""
    return _object({name: _string(limits.section_chars) for name in names})


def closed_question(limits: Limits, letters: Sequence[str]) -> dict[str, Any]:
    """What is seen, one assessment for each option of the question in the order of `letters`, and the summary."""
    assessment = _object({"think": _string(limits.step_chars), "correct": {"type": "boolean"}})
    look = {"look": _string(limits.step_chars)}
    return _object(look | dict.fromkeys(letters, assessment) | {"summary": _string(limits.step_chars)})


def open_question(limits: Limits) -> dict[str, Any]:
    """The observation, the hypotheses with their assessments, and the summary."""
    assessment = _object({"name": _string(80), "think": _string(limits.step_chars), "correct": {"type": "boolean"}})
    steps = {"type": "array", "items": assessment, "minItems": 1, "maxItems": limits.steps}
    return _object({"observed": _string(limits.step_chars), "hypotheses": steps, "summary": _string(limits.step_chars)})


CHARS_PER_TOKEN = 4
"""Characters of English text or JSON in a token of a large model's vocabulary, on average."""


def longest(schema: dict[str, Any]) -> int:
    """Tokens of the longest reply that a schema allows, about."""
    return -(-_longest_chars(schema) // CHARS_PER_TOKEN)


def _longest_chars(schema: dict[str, Any]) -> int:
    if schema["type"] == "object":
        return 2 + sum(len(name) + 4 + _longest_chars(part) for name, part in schema["properties"].items())
    if schema["type"] == "array":
        return 2 + int(schema["maxItems"]) * (1 + _longest_chars(schema["items"]))
    return int(schema["maxLength"]) + 2 if schema["type"] == "string" else len("false")


def layout(schema: dict[str, Any]) -> str:
    """A schema as a sentence of the prompt, for a server that does not enforce it."""
    return f" Use this layout: {json.dumps(_skeleton(schema), ensure_ascii=False)}"


def _steps(limits: Limits) -> dict[str, Any]:
    step = _object({"title": _string(80), "content": _string(limits.step_chars)})
    return {"type": "array", "items": step, "minItems": 1, "maxItems": limits.steps}


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
        return {name: _skeleton(property_schema) for name, property_schema in schema["properties"].items()}
    if schema["type"] == "array":
        return [_skeleton(schema["items"])]
    return True if schema["type"] == "boolean" else "..."
