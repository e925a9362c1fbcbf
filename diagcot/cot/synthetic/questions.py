"""Kind `questions`: question-answering data for CX-Mind from the labels, boxes and reports of one shard."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from diagcot.cot.settings import QuestionSettings
from diagcot.jobs import Context, Result, Unit
from diagcot.shards import Shard
from diagcot.tasks.prompts import reasoned
from diagcot.tasks.questions.questions import question_samples
from diagcot.tasks.questions.wording import Wording
from diagcot.tasks.samples import Sample, write_samples
from diagcot.text import layout


@contextlib.contextmanager
def prepare(ctx: Context) -> Iterator[QuestionSettings]:
    """Parse the settings."""
    yield QuestionSettings.model_validate(ctx.settings)


def run(unit: Unit, shared: QuestionSettings, ctx: Context) -> Result | None:
    """Write the questions of shard `unit.key` as samples, and count them by task."""
    shard = Shard(Path(ctx.inputs["shards"][0]) / f"{unit.key}.h5")
    name = str(shard.path.relative_to(ctx.shards_root))
    samples = sorted(
        question_samples(shard, name, shared.split, shared.tasks, Wording(shared.wording), ctx.seed, shared.views),
        key=lambda s: s.id,
    )
    if shared.layout == "single":
        samples = [single(sample) for sample in samples]
    final = ctx.output / f"{unit.key}.jsonl"
    staged = ctx.staged(final)
    write_samples(staged, samples)
    return Result({final: staged}, dict(sorted(Counter(sample.task for sample in samples).items())))


def single(sample: Sample) -> Sample:
    """The sample with one reasoning, all thoughts of its interleaved answer, and one answer, the last."""
    steps = layout.pairs(sample.answer)
    if not steps:
        return sample
    answer = reasoned("\n".join(step.think for step in steps), steps[-1].answer)
    return replace(sample, messages=(*sample.messages[:-1], ("assistant", answer)))
