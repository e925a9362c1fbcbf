"""The samples of a training stage: from sample files, from shards by task, with weights and a held-out part."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diagcot.data import seeded
from diagcot.jobs import Context
from diagcot.tasks.diagnosis import SAMPLES
from diagcot.tasks.samples import Sample, read_samples
from diagcot.tasks.views import ViewPolicy
from diagcot.training.data.batch import Collator
from diagcot.training.distributed import process_group

HELD_OUT = 0.1  # at most this part of the samples without a split of their own


@dataclass(frozen=True)
class Dataset:
    """Samples to train on (repeated by weight) and held out; no study is in both."""

    train: list[Sample]
    validation: list[Sample]


def gather(
    ctx: Context, tasks: dict[str, float], samples_weight: float, validation: int, views: ViewPolicy = "image"
) -> Dataset:
    """Read the inputs of roles `samples` and `shards`. Raises ValueError if there is nothing to train on."""
    train: list[Sample] = []
    held: list[Sample] = []
    for task, weight in sorted(tasks.items()) if ctx.inputs.get("shards") else ():
        train += _weighted(from_shards(ctx, task, "train", views), weight, ctx.seed)
        held += from_shards(ctx, task, "validate", views) if validation else []
    if ctx.inputs.get("samples"):
        mine = from_files(ctx)
        # A study held out by the shards' split is held out here too.
        kept, out = _hold_out(mine, validation, ctx.seed)
        train += _weighted(kept, samples_weight, ctx.seed)
        held += out
    if not train:
        raise ValueError(f"stage {ctx.stage} has no samples to train on; check what its input stages wrote and `tasks`")
    held.sort(key=lambda sample: _rank(ctx.seed, sample.id))
    studies = {sample.study for sample in train}
    return Dataset(train, [sample for sample in held if sample.study not in studies][:validation])


def from_shards(ctx: Context, task: str, split: str, views: ViewPolicy = "image") -> list[Sample]:
    """Samples of one task and split from all shards of role `shards`."""
    from diagcot.shards import Shard, shard_paths

    if task not in SAMPLES:
        raise ValueError(f"unknown task {task!r} in `tasks`; known: {', '.join(sorted(SAMPLES))}")
    found: list[Sample] = []
    for root in ctx.inputs["shards"]:
        for path in shard_paths(Path(root)):
            found += SAMPLES[task](Shard(path), str(path.relative_to(ctx.shards_root)), split, views)
    return found


def from_files(ctx: Context, role: str = "samples") -> list[Sample]:
    """Samples of role `role` as other stages wrote them. Raises ValueError if one is of the test split."""
    found = [sample for path in ctx.files(role, "*.jsonl") for sample in read_samples(path)]
    if any(sample.meta.get("split") == "test" for sample in found):
        raise ValueError(f"samples of stage {ctx.stage} come from the test split, which is for evaluation only")
    return found


def measure(ctx: Context, samples: Sequence[Sample], collator: Collator) -> tuple[list[int], list[int], int]:
    """Tokens and learned tokens of every sample, and how many were cut; each rank encodes its share.

    Kept in the workspace, so that a resumed stage starts at once. A collective.
    """
    key = hashlib.sha256()
    for sample in samples:
        key.update(f"{sample.task}\0{sample.id}\0{len(sample.answer)}\0".encode())
    key.update(json.dumps([collator.max_length, len(collator.tokenizer)]).encode())
    path = ctx.workspace / f"lengths-{key.hexdigest()[:16]}.npy"
    known = process_group.broadcast(np.load(path) if ctx.rank == 0 and path.is_file() else None)
    if known is None:
        table = np.zeros((3, len(samples)))
        for index in range(ctx.rank, len(samples), ctx.world_size):
            one = collator.encode(samples[index])
            table[:, index] = len(one.ids), one.targets, one.cut
        known = process_group.sum_array(table)
        if ctx.rank == 0:
            ctx.workspace.mkdir(parents=True, exist_ok=True)
            staged = path.with_name(f".{ctx.attempt}.npy")
            np.save(staged, known)
            staged.rename(path)
    return known[0].astype(int).tolist(), known[1].astype(int).tolist(), int(known[2].sum())


def _weighted(samples: list[Sample], weight: float, seed: int) -> list[Sample]:
    """Each sample `weight` times an epoch; the fraction is a fixed choice by hash."""
    whole, part = int(weight), weight - int(weight)
    chosen = sorted(samples, key=lambda sample: _rank(seed, sample.id))[: round(part * len(samples))]
    return samples * whole + chosen


def _hold_out(samples: list[Sample], wanted: int, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Whole studies, in the order of their hash, until `wanted` samples or a tenth of all are held out."""
    wanted = min(wanted, int(HELD_OUT * len(samples)))
    per_study: dict[str, int] = {}
    for sample in samples:
        per_study[sample.study] = per_study.get(sample.study, 0) + 1
    out: set[str] = set()
    count = 0
    for study in sorted(per_study, key=lambda name: _rank(seed, name)):
        if count + per_study[study] > wanted:
            break
        out.add(study)
        count += per_study[study]
    return [s for s in samples if s.study not in out], [s for s in samples if s.study in out]


def _rank(seed: int, text: str) -> int:
    return seeded.rank(seed, text, separator="/", algorithm="sha256")


def texts(ctx: Context) -> list[str]:
    """All words a tokenizer should know: prompts and answers of every task and sample in the inputs."""
    found: dict[str, Any] = {}
    if ctx.inputs.get("shards"):
        for task in sorted(SAMPLES):
            for sample in from_shards(ctx, task, "train"):
                found |= dict.fromkeys(text for _, text in sample.messages)
    if ctx.inputs.get("samples"):
        for sample in from_files(ctx):
            found |= dict.fromkeys(text for _, text in sample.messages)
    if not found:
        raise ValueError(f"stage {ctx.stage} needs inputs of role shards or samples to learn a tokenizer from")
    return list(found)
