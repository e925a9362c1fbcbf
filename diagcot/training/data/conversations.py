"""Text conversations of common file forms: sharegpt, messages and alpaca rows become samples without images."""

import hashlib
import json
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

from diagcot.data.reports import controls
from diagcot.jobs.state import reading
from diagcot.tasks.samples import Sample

ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}
_PAIR = ("user", "assistant")


def rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(line or position from 1, row) of a file; the row of a line that is not JSON is None.

    Raises ValueError if a `.json` file is not valid JSON.
    """
    if path.suffix == ".json":
        try:
            content = json.loads(reading.read_text(path))
        except ValueError as error:
            raise ValueError(f"{path} is not valid JSON ({error})") from None
        yield from enumerate(content if isinstance(content, list) else [content], 1)
        return
    for number, line in enumerate(reading.text_lines(path), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError:
                yield number, None


def to_sample(row: Any) -> Sample:
    """The sample of a row. Raises ValueError that says what is wrong with the row, without its text."""
    if not isinstance(row, dict):
        raise ValueError("not an object")
    turns = _row_turns(row)
    if row.get("system") and turns[0][0] != "system":
        turns = [("system", str(row["system"])), *turns]
    roles = [role for role, _ in turns if role != "system"]
    if not roles or roles != list(_PAIR) * (len(roles) // 2) or any(role == "system" for role, _ in turns[1:]):
        raise ValueError("user and assistant do not take turns, with the assistant last")
    if not all(text.strip() for _, text in turns):
        raise ValueError("has an empty turn")
    if any("<image>" in text for _, text in turns) or row.get("images"):
        raise ValueError("names an image; images come from shards")
    turns = [(role, controls.as_text(text)) for role, text in turns]
    name = hashlib.sha256(json.dumps(turns).encode()).hexdigest()[:16]
    return Sample(id=f"texts/{name}", task="text", study=f"texts/{name}", images=(), messages=tuple(turns))


def _row_turns(row: dict[str, Any]) -> list[tuple[str, str]]:
    if "conversations" in row:
        return _turns(row["conversations"], "from", "value")
    if "messages" in row:
        return _turns(row["messages"], "role", "content")
    if "instruction" in row and "output" in row:
        question = "\n".join(str(row[name]) for name in ("instruction", "input") if row.get(name))
        history = [str(text) for pair in row.get("history") or () for text in pair]
        return [*zip(cycle(_PAIR), history, strict=False), ("user", question), ("assistant", str(row["output"]))]
    raise ValueError("has neither conversations, messages, nor instruction and output")


def _turns(rows: Any, role: str, text: str) -> list[tuple[str, str]]:
    try:
        turns = [(ROLES[row[role]], row[text]) for row in rows]
    except (KeyError, TypeError) as error:
        raise ValueError(f"turns need {role} (one of {', '.join(ROLES)}) and {text}") from error
    if not all(isinstance(content, str) for _, content in turns):
        raise ValueError(f"a turn's {text} is not a text")
    return turns
