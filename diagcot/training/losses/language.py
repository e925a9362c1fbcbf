"""The causal language-model loss over the assistant's tokens."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from diagcot.jobs import Context
from diagcot.tasks.samples import Sample
from diagcot.training.data.batch import IGNORED, Collator
from diagcot.training.distributed import process_group


def inputs_of(batch: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What the model takes of a batch, with logits only from the first learned token on."""
    known = {name: value for name, value in batch.items() if name in MODEL_INPUTS}
    # The prompt holds most tokens (its image); their logits over the whole vocabulary are never needed.
    learned = (batch["labels"] != IGNORED).any(0)
    first = int(learned.int().argmax()) if bool(learned.any()) else 0
    return {**known, "logits_to_keep": batch["labels"].shape[1] - first + 1}


MODEL_INPUTS = ("input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "image_grid_thw")


def summed_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum of the negative log likelihood over the learned tokens.

    logits (samples, kept, vocabulary) of the last `kept` positions, labels (samples, tokens).
    """
    targets = labels[:, 1:][:, -(logits.shape[1] - 1) :]
    return F.cross_entropy(
        logits[:, :-1].float().reshape(-1, logits.shape[-1]), targets.reshape(-1), ignore_index=IGNORED, reduction="sum"
    )


def held_out(
    model: Any, samples: Sequence[Sample], collator: Collator, ctx: Context, micro_batch: int
) -> dict[str, float]:
    """Mean loss a token on held-out samples, each rank computing its share. A collective."""
    if not samples:
        return {}
    where = process_group.device(ctx)
    # ZeRO-3 gathers parameters in step: all ranks make the same number of passes, the last ones perhaps on a repeat.
    passes = -(-len(samples) // (micro_batch * ctx.world_size))
    total = targets = 0.0
    for index in range(passes):
        start = (index * ctx.world_size + ctx.rank) * micro_batch
        mine = samples[start : start + micro_batch]
        batch = {name: value.to(where) for name, value in collator(mine or samples[:1]).items()}
        loss = summed_loss(model(**inputs_of(batch)).logits, batch["labels"])
        if mine:
            total += float(loss)
            targets += float((batch["labels"][:, 1:] != IGNORED).sum())
    total, targets = process_group.sum_values([total, targets])
    return {"loss": total / targets}
