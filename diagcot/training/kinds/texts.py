"""Kind `texts`: text conversations become samples without images (CX-Mind's first stage, arXiv:2508.03733)."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from diagcot.data.errors import DataError
from diagcot.exchange import tables
from diagcot.exchange.conversations import read
from diagcot.jobs import Context, Result, Unit
from diagcot.tasks.samples import Sample, write_samples
from diagcot.training.config.texts_settings import TextsSettings


@contextmanager
def prepare(ctx: Context) -> Iterator[TextsSettings]:
    """The stage's settings."""
    yield TextsSettings.model_validate(ctx.settings)


def run(unit: Unit, settings: TextsSettings, ctx: Context) -> Result | None:
    """Write `texts.jsonl`; counts the samples, the skipped rows and the repeated ones."""
    if ctx.rank:
        return Result()
    counts = {"samples": 0, "skipped": 0, "repeated": 0}
    paths = settings.paths()

    def samples() -> Iterator[Sample]:
        ids: set[str] = set()
        for done, path in enumerate(paths):
            for place, row in islice(tables.rows(path), settings.max_samples):
                try:
                    sample = to_sample(row)
                except ValueError as error:
                    if settings.on_bad_row == "fail":
                        raise DataError(f"{path.parent / place}: {error}; fix it, or set on_bad_row: skip") from None
                    counts["skipped"] += 1
                    continue
                if sample.id in ids:
                    counts["repeated"] += 1
                    continue
                ids.add(sample.id)
                yield sample
            counts["samples"] = len(ids)
            ctx.progress(done + 1, len(paths), **counts)

    final = ctx.output / "texts.jsonl"
    write_samples(ctx.staged(final), samples())
    if not counts["samples"]:
        raise DataError(f"no row of {', '.join(map(str, paths))} is a conversation; see `files` in docs/training.md")
    return Result(outputs={final: ctx.staged(final)}, counts=counts)


def to_sample(row: Any) -> Sample:
    """The sample of a row. Raises ValueError that says what is wrong with the row, without its text."""
    conversation = read(row)
    if conversation.images:
        raise ValueError("names an image; kind `import` reads conversations about images")
    name = hashlib.sha256(json.dumps(conversation.turns).encode()).hexdigest()[:16]
    return Sample(id=f"texts/{name}", task="text", study=f"texts/{name}", images=(), messages=conversation.turns)
