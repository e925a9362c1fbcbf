"""Kind: question answering data for CX-Mind from the labels, boxes and reports of one shard."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from diagcot.cot.settings import QuestionSettings
from diagcot.data.question_words import Words
from diagcot.data.questions import ask
from diagcot.data.samples import write_samples
from diagcot.jobs.context import Context, Result, Unit
from diagcot.shards import Shard


@contextlib.contextmanager
def open(ctx: Context) -> Iterator[QuestionSettings]:
    yield QuestionSettings.model_validate(ctx.settings)


def run(unit: Unit, shared: QuestionSettings, ctx: Context) -> Result | None:
    """Questions of shard `unit.key` as samples, and how many of each task."""
    shard = Shard(Path(ctx.inputs["shards"][0]) / f"{unit.key}.h5")
    name = str(shard.path.relative_to(ctx.shards_root))
    samples = sorted(
        ask(shard, name, shared.split, shared.tasks, Words(shared.wording), ctx.seed, shared.views), key=lambda s: s.id
    )
    final = ctx.output / f"{unit.key}.jsonl"
    staged = ctx.staged(final)
    write_samples(staged, samples)
    return Result({final: staged}, dict(sorted(Counter(sample.task for sample in samples).items())))
