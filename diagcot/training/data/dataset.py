"""The samples of a training stage: from sample files, from shards by task, with weights and a held-out part."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from diagcot.data import seeded
from diagcot.data.errors import DataError
from diagcot.jobs import Context
from diagcot.tasks.diagnosis import SAMPLES
from diagcot.tasks.prompt_set import PromptSet
from diagcot.tasks.samples import Sample, read_samples
from diagcot.tasks.views import ViewPolicy
from diagcot.training.config.settings import Reasoning, ShardTask
from diagcot.training.data.collator import Collator
from diagcot.training.data.reasoning import with_reasoning
from diagcot.training.distributed import process_group

MAX_HELD_OUT = 0.1  # share of the samples without a split in their data


@dataclass(frozen=True)
class Dataset:
    """Samples to train on (repeated by weight) and held out; no study is in both.

    needed: what the stage must have some of, see `diagcot.jobs.state.counts.nothing_of`.
    """

    train: list[Sample]
    validation: list[Sample]
    needed: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Lengths:
    """Tokens and learned tokens of each sample, and how many samples were truncated."""

    tokens: list[int]
    learned: list[int]
    truncated: int


def load(
    ctx: Context,
    tasks: Mapping[ShardTask, float],
    samples_weight: float,
    validation: int,
    views: ViewPolicy = "image",
    reasoning: Reasoning = "kept",
) -> Dataset:
    """Read the inputs of roles `samples` and `shards`.

    tasks: weight of each task made from shards. validation: samples to hold out at most. reasoning: of role `samples`.
    Samples with an empty answer, which teach no more than to stop, are left out and counted by the event `blank_answers`.
    Raises DataError if there is nothing to train on.
    """
    needed: dict[str, int] = {}
    train: list[Sample] = []
    held_out: list[Sample] = []
    for task, weight in sorted(tasks.items()) if ctx.inputs.get("shards") else ():
        found = from_shards(ctx, task, "train", views)
        needed |= {f"training samples of task {task}": len(found)} if weight else {}
        train += _weighted(found, weight, ctx.seed)
        held_out += from_shards(ctx, task, "validate", views) if validation else []
    if ctx.inputs.get("samples"):
        samples = [with_reasoning(sample, reasoning) for sample in from_files(ctx)]
        stated = [sample for sample in samples if sample.meta.get("split") == "validate"]
        samples = [sample for sample in samples if sample.meta.get("split") != "validate"]
        # A study held out by the shards' split is held out here too.
        needed["training samples of the input samples"] = len(samples)
        kept, split_off = (samples, stated) if stated else _hold_out(samples, validation, ctx.seed)
        train += _weighted(kept, samples_weight, ctx.seed)
        held_out += split_off
    answered = [sample for sample in train if _answered(sample)]
    if len(answered) < len(train):
        ctx.event("blank_answers", samples=len(train) - len(answered), of=len(train))
    train, held_out = answered, [sample for sample in held_out if _answered(sample)]
    if not train:
        raise DataError(f"stage {ctx.stage} has no samples to train on; check what its input stages wrote and `tasks`")
    held_out.sort(key=lambda sample: seeded_rank(ctx.seed, sample.id))
    studies = {sample.study for sample in train}
    return Dataset(train, [sample for sample in held_out if sample.study not in studies][:validation], needed)


def _answered(sample: Sample) -> bool:
    return all(text.strip() for role, text in sample.messages if role == "assistant")


def from_shards(ctx: Context, task: str, split: str, views: ViewPolicy = "image") -> list[Sample]:
    """Samples of one task and split from all shards of role `shards`. Raises ValueError for an unknown task."""
    from diagcot.shards import Shard, shard_paths

    if task not in SAMPLES:
        raise ValueError(f"unknown task {task!r} in `tasks`; known: {', '.join(sorted(SAMPLES))}")
    texts = PromptSet.of(ctx.settings)
    samples: list[Sample] = []
    for root in ctx.inputs["shards"]:
        for path in shard_paths(Path(root)):
            samples += SAMPLES[task](Shard(path), str(path.relative_to(ctx.shards_root)), split, views, texts)
    return samples


def from_files(ctx: Context, role: str = "samples") -> list[Sample]:
    """Samples of role `role` as other stages wrote them. Raises ValueError if one is of the test split."""
    samples = [sample for path in ctx.files(role, "*.jsonl") for sample in read_samples(path)]
    if any(sample.meta.get("split") == "test" for sample in samples):
        raise ValueError(f"samples of stage {ctx.stage} come from the test split, which is for evaluation only")
    return samples


def measure(ctx: Context, samples: Sequence[Sample], collator: Collator) -> Lengths:
    """Lengths of all samples; each rank encodes its share. A collective.

    The result is kept in the workspace, so that a resumed stage starts at once.
    """
    key = hashlib.sha256()
    for sample in samples:
        key.update(f"{sample.to_json()}\n".encode())
    key.update(json.dumps([collator.max_length, len(collator.tokenizer)]).encode())
    path = ctx.workspace / f"lengths-{key.hexdigest()[:16]}.npy"
    table = process_group.broadcast(np.load(path) if ctx.rank == 0 and path.is_file() else None)
    if table is None:
        own = np.zeros((3, len(samples)))
        for index in range(ctx.rank, len(samples), ctx.world_size):
            encoded = collator.encode(samples[index])
            own[:, index] = len(encoded.ids), encoded.learned_tokens, encoded.truncated
        table = process_group.sum_array(own)
        if ctx.rank == 0:
            ctx.workspace.mkdir(parents=True, exist_ok=True)
            staged = path.with_name(f".{ctx.attempt}.npy")
            np.save(staged, table)
            staged.rename(path)
    return Lengths(table[0].astype(int).tolist(), table[1].astype(int).tolist(), int(table[2].sum()))


def corpus(ctx: Context) -> list[str]:
    """All texts that a tokenizer should know: prompts and answers of every task and sample in the inputs.

    Raises ValueError if there are none.
    """
    texts: dict[str, None] = {}
    if ctx.inputs.get("shards"):
        for task in sorted(SAMPLES):
            for sample in from_shards(ctx, task, "train"):
                texts |= dict.fromkeys(text for _, text in sample.messages)
    if ctx.inputs.get("samples"):
        for sample in from_files(ctx):
            texts |= dict.fromkeys(text for _, text in sample.messages)
    if not texts:
        raise ValueError(f"stage {ctx.stage} needs inputs of role shards or samples to learn a tokenizer from")
    return list(texts)


def seeded_rank(seed: int, text: str) -> int:
    """A number fixed by seed and text, by which samples, studies and patients are chosen."""
    return seeded.rank(seed, text, separator="/", algorithm="sha256")


def _weighted(samples: list[Sample], weight: float, seed: int) -> list[Sample]:
    """Each sample `weight` times an epoch; the fractional part is a fixed choice by hash."""
    repeats, fraction = int(weight), weight - int(weight)
    chosen = sorted(samples, key=lambda sample: seeded_rank(seed, sample.id))[: round(fraction * len(samples))]
    return samples * repeats + chosen


def _hold_out(samples: list[Sample], wanted: int, seed: int) -> tuple[list[Sample], list[Sample]]:
    """(kept, held out): whole studies in the order of their hash, up to `wanted` samples or a tenth of all."""
    wanted = min(wanted, int(MAX_HELD_OUT * len(samples)))
    per_study: dict[str, int] = {}
    for sample in samples:
        per_study[sample.study] = per_study.get(sample.study, 0) + 1
    held_out: set[str] = set()
    count = 0
    for study in sorted(per_study, key=lambda name: seeded_rank(seed, name)):
        if count + per_study[study] > wanted:
            break
        held_out.add(study)
        count += per_study[study]
    return [s for s in samples if s.study not in held_out], [s for s in samples if s.study in held_out]
