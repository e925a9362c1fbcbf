"""Kind: worked examples of every conversation of the suite, written by rule from the training reports of phantoms.

A tiny model from random weights cannot follow an instruction that it never saw. Pre-trained on these examples it plays
teacher, verifier and judge with the very prompts and JSON layouts that the search and the filter use, so that the whole
chain runs for real at a size of minutes. A model that follows instructions needs no primer.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from diagcot.cot.search.case import chosen
from diagcot.cot.settings import CollectSettings, PrimerSettings
from diagcot.cot.synthetic.lessons import EXAMPLES, Lesson, Reading, chance, pairs
from diagcot.jobs import Context, Result, Unit
from diagcot.shards import Shard
from diagcot.tasks import diagnosis as tasks
from diagcot.tasks.questions.questions import CLOSED, question_samples
from diagcot.tasks.questions.wording import Wording
from diagcot.tasks.samples import ImageRef, Sample, write_samples

SPLIT = "train"
_KNOWN = ("report", "grounding", *EXAMPLES, "closed", "open")


@contextlib.contextmanager
def prepare(ctx: Context) -> Iterator[PrimerSettings]:
    yield PrimerSettings.model_validate(ctx.settings)


def run(unit: Unit, shared: PrimerSettings, ctx: Context) -> Result | None:
    """Examples of shard `unit.key`. Raises ValueError if a task of the settings is not known."""
    unknown = sorted(set(shared.tasks) - set(_KNOWN))
    if unknown:
        raise ValueError(f"unknown tasks of the primer: {', '.join(unknown)}; known: {', '.join(_KNOWN)}")
    shard = Shard(Path(ctx.inputs["shards"][0]) / f"{unit.key}.h5")
    name = str(shard.path.relative_to(ctx.shards_root))
    found = [*_direct(shard, name, shared), *_conversations(shard, name, shared), *_questions(shard, name, shared, ctx)]
    samples = sorted(found, key=lambda sample: (sample.id, sample.task))
    final = ctx.output / f"{unit.key}.jsonl"
    staged = ctx.staged(final)
    write_samples(staged, samples)
    return Result({final: staged}, dict(sorted(Counter(sample.task for sample in samples).items())))


def _direct(shard: Shard, name: str, settings: PrimerSettings) -> Iterator[Sample]:
    for task, make in (("report", tasks.report_samples), ("grounding", tasks.grounding_samples)):
        for sample in make(shard, name, SPLIT):
            if sample.meta.get("phantom"):
                yield from _repeated(sample, settings.tasks.get(task, 0.0))


def _conversations(shard: Shard, name: str, settings: PrimerSettings) -> Iterator[Sample]:
    found: list[tuple[Sample, Reading]] = []
    for sample in tasks.report_samples(shard, name, SPLIT):
        short = len(sample.answer.split()) <= settings.max_words
        if short and sample.meta.get("phantom") and sample.meta.get("view") not in ("LATERAL", "LL"):
            study = shard.study(shard.study_of(sample.images[0].row))
            reading = Reading.of(study.findings, study.impression)
            if reading.regions and reading.impression:
                found.append((sample, reading))
    for index, (sample, right) in enumerate(found):
        other = _other(found, index)
        if other is None:
            continue
        # Half of the wrong conclusions miss one region, half are another patient's altogether.
        wrong = other if chance(sample.id, "wrong") < 0.5 else right.spoiled(other)
        lesson = Lesson(sample.answer, right, wrong if right.unlike(wrong) else other)
        for task, write in EXAMPLES.items():
            prompt, answer = write(lesson, sample.id)
            example = Sample(
                id=f"{sample.id}:{task}",
                task=task,
                study=sample.study,
                images=(ImageRef(name, sample.images[0].row),),
                messages=(("user", prompt), ("assistant", answer)),
                meta={"phantom": True},
            )
            yield from _repeated(example, settings.tasks.get(task, 0.0))


def _questions(shard: Shard, name: str, settings: PrimerSettings, ctx: Context) -> Iterator[Sample]:
    """One closed and one open question about a film, of those that there are, chosen by hash."""
    wanted = [kind for kind in ("closed", "open") if settings.tasks.get(kind)]
    if not wanted:
        return
    shares = dict.fromkeys((*CLOSED, "progression", "open"), 1.0)
    asked = {one.id: one for one in question_samples(shard, name, SPLIT, shares, Wording(), ctx.seed, "image")}
    about = CollectSettings(tasks=tuple(wanted), views="all", max_reference_chars=1_000_000)
    met: set[tuple[str, int]] = set()
    for case in chosen(shard, ctx.shards_root, about, asked.values()):  # in the order of their hashes
        kind = "open" if case.task == "open" else "closed"
        film = (kind, case.images[-1].row)
        short = len(case.guide.split()) <= settings.max_words
        if film not in met and short and case.meta.get("phantom"):
            met.add(film)
            prompt, answer = pairs(case, asked[case.id].answer)
            messages = (("user", prompt), ("assistant", answer))
            example = Sample(f"{case.id}:{kind}", kind, case.study, case.images, messages, {"phantom": True})
            yield from _repeated(example, settings.tasks[kind])


def _other(found: Sequence[tuple[Sample, Reading]], index: int) -> Reading | None:
    """Another patient's reading that differs, chosen by the sample's hash."""
    sample, right = found[index]
    start = int(chance(sample.id, "other") * len(found))
    rows = (found[(start + step) % len(found)][1] for step in range(len(found)))
    return next((reading for reading in rows if right.unlike(reading)), None)


def _repeated(sample: Sample, weight: float) -> Iterator[Sample]:
    """The sample `weight` times on average over many: the whole part always, the rest by its hash."""
    count = int(weight) + (chance(sample.id, sample.task) < weight - int(weight))
    for number in range(count):
        yield sample if not number else replace(sample, id=f"{sample.id}#{number}")
