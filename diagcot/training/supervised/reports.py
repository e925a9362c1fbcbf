"""The reports of an alignment stage: their embeddings, and which of them say the same."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from diagcot.data.reports import labeler
from diagcot.jobs import Context
from diagcot.tasks.samples import Sample
from diagcot.training.data.collator import Batch
from diagcot.training.distributed import process_group
from diagcot.training.losses.contrastive import AlignerOutput, Outputs

NORMAL = -1  # key of all normal reports


class ReportKeys(NamedTuple):
    """Which reports say the same.

    words: one number for each sample, equal for reports of the same words. pairs: (samples, 2); two samples that agree in
    a column are not negatives of each other. The first column is `words`; the second is NORMAL for all normal reports,
    by the rule labeler, and `words` for the others.
    """

    words: list[int]
    pairs: torch.Tensor


def embed(
    forward: Callable[[Batch, Outputs], AlignerOutput],
    width: int,
    samples: Sequence[Sample],
    processor: Any,
    ctx: Context,
    micro_batch: int,
) -> torch.Tensor:
    """Mean last hidden state of each sample's report, (samples, width) float32, on the CPU. A collective.

    forward: an Aligner, or the engine of one. Each distinct report is computed once.
    """
    texts = list(dict.fromkeys(sample.answer for sample in samples))
    rows = {text: index for index, text in enumerate(texts)}
    device = process_group.device(ctx)
    table = torch.zeros(len(texts), width)
    with torch.no_grad():
        for own in shares(len(texts), micro_batch, ctx):
            ctx.beat()
            encoded = processor.tokenizer(
                [texts[index] for index in own] or texts[:1],
                return_tensors="pt",
                padding=True,
                padding_side="right",
                add_special_tokens=False,
            ).to(device)
            means = forward(dict(encoded), "reports").embeddings.cpu()
            if len(own):
                table[own.start : own.stop] = means
    table = torch.from_numpy(process_group.sum_array(table.numpy())).float()
    return table[[rows[sample.answer] for sample in samples]]


def shares(count: int, micro_batch: int, ctx: Context) -> list[range]:
    """This rank's part of `count` items in each pass. All ranks make equally many passes, so a part may be empty."""
    size = micro_batch * ctx.world_size
    starts = [start + ctx.rank * micro_batch for start in range(0, count, size)]
    return [range(min(start, count), min(start + micro_batch, count)) for start in starts]


def keys(samples: Sequence[Sample], ctx: Context) -> ReportKeys:
    """Which reports of `samples` say the same; each rank labels its share. A collective."""
    words = [word_key(sample.answer) for sample in samples]
    distinct = list(dict.fromkeys(words))
    texts = dict(zip(words, (sample.answer for sample in samples), strict=True))
    own = np.zeros(len(distinct))
    for index in range(ctx.rank, len(distinct), ctx.world_size):
        own[index] = is_normal(texts[distinct[index]])
    normal = dict(zip(distinct, process_group.sum_array(own), strict=True))
    return ReportKeys(words, torch.tensor([[number, NORMAL if normal[number] else number] for number in words]))


def is_normal(report: str) -> bool:
    """Whether nothing is present or in doubt, support devices included."""
    labels = labeler.label(report)
    return labels.pop("No Finding", 0) == 1 and not any(labels.values())


def word_key(report: str) -> int:
    """Equal for reports of the same words, whatever their case and spaces."""
    words = " ".join(report.lower().split())
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:7], "big")
