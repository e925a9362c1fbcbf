"""Kind `questions`: question-answering data for CX-Mind from the labels, boxes and reports of one shard."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from diagcot.cot.settings import QuestionSettings
from diagcot.jobs import Context, Result, Unit
from diagcot.shards import Shard
from diagcot.tasks.questions.questions import question_samples
from diagcot.tasks.questions.wording import Wording
from diagcot.tasks.samples import write_samples


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
    final = ctx.output / f"{unit.key}.jsonl"
    staged = ctx.staged(final)
    write_samples(staged, samples)
    counts = Counter(sample.task for sample in samples)
    needed = {f"questions of task {task}": counts[task] for task, share in sorted(shared.tasks.items()) if share}
    return Result({final: staged}, {**dict(sorted(counts.items())), "needed": needed})
