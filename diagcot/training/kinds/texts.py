"""Kind `texts`: text conversations of common forms become samples without films."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from diagcot.jobs import Context, Result, Unit
from diagcot.tasks.samples import Sample, write_samples
from diagcot.training.config.texts_settings import TextsSettings

ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}


@contextmanager
def prepare(ctx: Context) -> Iterator[TextsSettings]:
    yield TextsSettings.model_validate(ctx.settings)


def run(unit: Unit, settings: TextsSettings, ctx: Context) -> Result | None:
    """Write `texts.jsonl`; counts the samples, the rows left out, and those that occur twice."""
    if ctx.rank:
        return Result()
    counts = {"samples": 0, "skipped": 0, "repeated": 0}
    paths = settings.paths()

    def samples() -> Iterator[Sample]:
        known: set[str] = set()
        for done, path in enumerate(paths):
            for number, row in islice(rows(path), settings.max_samples):
                try:
                    sample = converted(row)
                except ValueError as error:
                    if settings.on_bad_row == "fail":
                        raise ValueError(f"{path}:{number}: {error}; mend it, or set on_bad_row: skip") from None
                    counts["skipped"] += 1
                    continue
                if sample.id in known:
                    counts["repeated"] += 1
                    continue
                known.add(sample.id)
                yield sample
            ctx.progress(done + 1, len(paths), **counts)

    final = ctx.output / "texts.jsonl"
    counts["samples"] = write_samples(ctx.staged(final), samples())
    if not counts["samples"]:
        raise ValueError(f"no row of {', '.join(map(str, paths))} is a conversation; see `files` in docs/training.md")
    return Result(outputs={final: ctx.staged(final)}, counts=counts)


def rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(line or position from 1, row) of a file; a line that is no JSON gives None."""
    if path.suffix == ".json":
        try:
            whole = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not valid JSON ({error})") from None
        yield from enumerate(whole if isinstance(whole, list) else [whole], 1)
        return
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except ValueError:
                    yield number, None


def converted(row: Any) -> Sample:
    """The sample of a row. Raises ValueError that says what is wrong with it, without its text."""
    if not isinstance(row, dict):
        raise ValueError("not an object")
    if "conversations" in row:
        turns = _turns(row["conversations"], "from", "value")
    elif "messages" in row:
        turns = _turns(row["messages"], "role", "content")
    elif "instruction" in row and "output" in row:
        asked = "\n".join(str(row[name]) for name in ("instruction", "input") if row.get(name))
        past = [str(text) for pair in row.get("history") or () for text in pair]
        turns = [*zip(cycle(_PAIR), past, strict=False), ("user", asked), ("assistant", str(row["output"]))]
    else:
        raise ValueError("has neither conversations, messages, nor instruction and output")
    if row.get("system") and turns[0][0] != "system":
        turns = [("system", str(row["system"])), *turns]
    talk = [role for role, _ in turns if role != "system"]
    if not talk or talk != list(_PAIR) * (len(talk) // 2) or any(role == "system" for role, _ in turns[1:]):
        raise ValueError("user and assistant do not take turns, with the assistant last")
    if not all(text.strip() for _, text in turns):
        raise ValueError("has an empty turn")
    if any("<image>" in text for _, text in turns) or row.get("images"):
        raise ValueError("names a film; films come from shards")
    name = hashlib.sha256(json.dumps(turns).encode()).hexdigest()[:16]
    return Sample(id=f"texts/{name}", task="text", study=f"texts/{name}", images=(), messages=tuple(turns))


_PAIR = ("user", "assistant")


def _turns(rows: Any, role: str, text: str) -> list[tuple[str, str]]:
    try:
        turns = [(ROLES[row[role]], row[text]) for row in rows]
    except (KeyError, TypeError) as error:
        raise ValueError(f"turns need {role} (one of {', '.join(ROLES)}) and {text}") from error
    if not all(isinstance(words, str) for _, words in turns):
        raise ValueError(f"a turn's {text} is not a text")
    return turns
