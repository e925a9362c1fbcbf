"""Kind `texts`: text conversations become samples without images (CX-Mind's first stage, arXiv:2508.03733)."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

from diagcot.jobs import Context, Result, Unit
from diagcot.tasks.samples import Sample, write_samples
from diagcot.training.config.texts_settings import TextsSettings
from diagcot.training.data import conversations


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
            for number, row in islice(conversations.rows(path), settings.max_samples):
                try:
                    sample = conversations.to_sample(row)
                except ValueError as error:
                    if settings.on_bad_row == "fail":
                        raise ValueError(f"{path}:{number}: {error}; fix it, or set on_bad_row: skip") from None
                    counts["skipped"] += 1
                    continue
                if sample.id in ids:
                    counts["repeated"] += 1
                    continue
                ids.add(sample.id)
                yield sample
            ctx.progress(done + 1, len(paths), **counts)

    final = ctx.output / "texts.jsonl"
    counts["samples"] = write_samples(ctx.staged(final), samples())
    if not counts["samples"]:
        raise ValueError(f"no row of {', '.join(map(str, paths))} is a conversation; see `files` in docs/training.md")
    return Result(outputs={final: ctx.staged(final)}, counts=counts)
