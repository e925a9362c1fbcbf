"""Kind `synthetic-sft`: examples of every conversation of the suite, written by rule from the training reports of phantoms.

A tiny model with random weights cannot follow an instruction that it has never seen. Pre-trained on these examples it
acts as teacher, verifier and judge with the same prompts and JSON layouts that the search and the filter use, so that
the whole chain runs in minutes. A model that follows instructions does not need them.
"""

import contextlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from diagcot.cot.search import prompts
from diagcot.cot.search.sample import select_samples
from diagcot.cot.settings import CollectSettings, SyntheticSettings
from diagcot.cot.synthetic import drawings, exercises
from diagcot.cot.synthetic.conversations import CONVERSATIONS, Material, Reading, chance, pairs
from diagcot.jobs import Context, Result, Unit
from diagcot.shards import Shard
from diagcot.tasks import diagnosis as tasks
from diagcot.tasks.prompts import reasoned
from diagcot.tasks.questions.questions import CLOSED, question_samples
from diagcot.tasks.questions.wording import Wording
from diagcot.tasks.samples import ImageRef, Sample, write_samples
from diagcot.tasks.views import study_views


@contextlib.contextmanager
def prepare(ctx: Context) -> Iterator[SyntheticSettings]:
    """Parse the settings."""
    yield SyntheticSettings.model_validate(ctx.settings)


def run(unit: Unit, shared: SyntheticSettings, ctx: Context) -> Result | None:
    """Write the examples of shard `unit.key`."""
    shard = Shard(Path(ctx.inputs["shards"][0]) / f"{unit.key}.h5")
    name = str(shard.path.relative_to(ctx.shards_root))
    samples = [
        *_direct(shard, name, shared),
        *_conversations(shard, name, shared),
        *_questions(shard, name, shared, ctx),
        *_exercises(shard, name, shared),
        *_drawings(shard, name, shared),
    ]
    samples.sort(key=lambda sample: (sample.id, sample.task))
    final = ctx.output / f"{unit.key}.jsonl"
    staged = ctx.staged(final)
    write_samples(staged, samples)
    counts = Counter(sample.task for sample in samples)
    needed = {f"conversations of task {task}": counts[task] for task, number in sorted(shared.tasks.items()) if number}
    return Result({final: staged}, {**dict(sorted(counts.items())), "needed": needed})


def _direct(shard: Shard, name: str, settings: SyntheticSettings) -> Iterator[Sample]:
    texts = settings.prompts
    reports = tasks.report_samples(shard, name, settings.split, texts=texts)
    for task, samples in (
        ("report", reports),
        ("grounding", tasks.grounding_samples(shard, name, settings.split, texts=texts)),
    ):
        for sample in samples:
            if sample.meta.get("phantom"):
                yield from _repeated(sample, settings.tasks.get(task, 0.0))


def _conversations(shard: Shard, name: str, settings: SyntheticSettings) -> Iterator[Sample]:
    texts = settings.prompts
    readings: list[tuple[Sample, Reading]] = []
    for sample in tasks.report_samples(shard, name, settings.split, texts=texts):
        short = len(sample.answer.split()) <= settings.max_words
        if short and sample.meta.get("phantom") and sample.meta.get("view") not in ("LATERAL", "LL"):
            study = shard.study(shard.study_of(sample.images[-1].row))
            reading = Reading.of(study.findings, study.impression)
            if reading.regions and reading.impression:
                readings.append((sample, reading))
    for index, (sample, correct) in enumerate(readings):
        other = _other(readings, index)
        if other is None:
            continue
        # Half of the wrong readings have an error in one region, half are another patient's entirely.
        wrong = other if chance(sample.id, "wrong") < 0.5 else correct.with_error(other)
        material = Material(sample.id, correct, wrong if correct.differences(wrong) else other, texts)
        for task, write in CONVERSATIONS.items():
            prompt, answer = write(material)
            example = Sample(
                id=f"{sample.id}:{task}",
                task=task,
                study=sample.study,
                images=(ImageRef(name, sample.images[-1].row),),
                messages=(*prompts.system(texts), ("user", prompt), ("assistant", answer)),
                meta={"phantom": True},
            )
            yield from _repeated(example, settings.tasks.get(task, 0.0))
        request = f"{sample.prompt}\n{texts.render('format_instruction', task='report')}"
        messages = (("user", request), ("assistant", reasoned(correct.reasoning, correct.answer)))
        example = replace(sample, id=f"{sample.id}:reasoned", task="reasoned", messages=messages)
        yield from _repeated(example, settings.tasks.get("reasoned", 0.0))


def _questions(shard: Shard, name: str, settings: SyntheticSettings, ctx: Context) -> Iterator[Sample]:
    """At most one closed and one open question about each image, selected by hash."""
    wanted = [kind for kind in ("closed", "open") if settings.tasks.get(kind)]
    if not wanted:
        return
    shares = dict.fromkeys((*CLOSED, "progression", "open"), 1.0)
    asked = question_samples(shard, name, settings.split, shares, Wording(), ctx.seed, "image")
    questions = {sample.id: sample for sample in asked}
    selection = CollectSettings(tasks=tuple(wanted), views="all", max_reference_chars=1_000_000)
    used: set[tuple[str, int]] = set()
    for sample in select_samples(shard, ctx.shards_root, selection, questions.values()):  # in the order of their hashes
        kind = "open" if sample.task == "open" else "closed"
        image = (kind, sample.images[-1].row)
        short = len(sample.reference_report.split()) <= settings.max_words
        if image not in used and short and sample.meta.get("phantom"):
            used.add(image)
            prompt, answer = pairs(sample, questions[sample.id].answer, settings.prompts)
            messages = (*prompts.system(settings.prompts), ("user", prompt), ("assistant", answer))
            example = Sample(f"{sample.id}:{kind}", kind, sample.study, sample.images, messages, {"phantom": True})
            yield from _repeated(example, settings.tasks[kind])


def _exercises(shard: Shard, name: str, settings: SyntheticSettings) -> Iterator[Sample]:
    """Exercises without an image, from the sentences of each phantom's report."""
    for sample in tasks.report_samples(shard, name, settings.split):
        if sample.meta.get("phantom"):
            study = shard.study(shard.study_of(sample.images[-1].row))
            statements = [text for part in (study.findings, study.impression) for text in re.findall(r"[^.]+\.", part)]
            for task in exercises.WRITERS:
                for number in range(_count(sample.id, task, settings.tasks.get(task, 0.0))):
                    example_id = f"{sample.id}:{task}#{number}"
                    prompt, answer = exercises.write(task, [text.strip() for text in statements], example_id)
                    messages = (("user", prompt), ("assistant", answer))
                    yield Sample(example_id, task, sample.study, (), messages, {"phantom": True})


def _drawings(shard: Shard, name: str, settings: SyntheticSettings) -> Iterator[Sample]:
    for view in study_views(shard, settings.split):
        if view.study.dataset == drawings.DATASET:
            for task, prompt, answer in drawings.conversations(view.study):
                yield from _repeated(view.sample(task, name, prompt, answer, task), settings.tasks.get(task, 0.0))


def _other(readings: Sequence[tuple[Sample, Reading]], index: int) -> Reading | None:
    """Another patient's reading that differs, selected by the sample's hash."""
    sample, correct = readings[index]
    start = int(chance(sample.id, "other") * len(readings))
    others = (readings[(start + step) % len(readings)][1] for step in range(len(readings)))
    return next((reading for reading in others if correct.differences(reading)), None)


def _repeated(sample: Sample, weight: float) -> Iterator[Sample]:
    """The sample `weight` times on average over many."""
    for number in range(_count(sample.id, sample.task, weight)):
        yield sample if not number else replace(sample, id=f"{sample.id}#{number}")


def _count(sample_id: str, task: str, weight: float) -> int:
    """`weight` on average over many: the whole part always, the rest by the hash."""
    return int(weight) + (chance(sample_id, task) < weight - int(weight))
