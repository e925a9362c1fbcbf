"""The causal language-model loss over the assistant's tokens."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from diagcot.jobs import Context
from diagcot.tasks.samples import Sample
from diagcot.training.data.collator import IGNORED, Batch
from diagcot.training.distributed import process_group
from diagcot.training.families import IMAGE_INPUTS
from diagcot.training.losses import logprobs
from diagcot.training.models import attention

MODEL_INPUTS = ("input_ids", "position_ids", "token_type_ids", *IMAGE_INPUTS)

_IN_HOST_MEMORY = {
    *("labels", "sequence_lengths", "cu_seq_lens_q", "cu_seq_lens_k"),
    *("image_counts", "image_keys", "image_grid_thw", "image_sizes", "image_patches", "image_tokens", "part_start"),
}


def on_device(values: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """A batch or inputs on `device`, but for what says how a pass is cut: reading that there would make the host wait."""
    return {
        name: process_group.moved(value, device)
        if isinstance(value, torch.Tensor) and name not in _IN_HOST_MEMORY
        else value
        for name, value in values.items()
    }


def model_inputs(batch: Batch) -> dict[str, Any]:
    """The arguments of the model's forward pass, which gives logits only where the next token may be learned.

    The prompt with its image holds most of the tokens; their logits over the whole vocabulary are never needed. Of padded
    rows `logits_to_keep` is a number of columns, from the first learned token of any row on; of packed sequences it is the
    positions (learned,) before the learned tokens, counted from `part_start` where this rank computes a part of the row.
    """
    inputs: dict[str, Any] = {name: value for name, value in batch.items() if name in MODEL_INPUTS}
    lengths, learned = batch["sequence_lengths"], batch["labels"] != IGNORED
    if len(lengths) > len(learned) or "part_start" in batch:
        before = learned[0, 1:].nonzero()[:, 0] - batch.get("part_start", 0)
        before = process_group.moved(before, batch["input_ids"].device)
        return {**inputs, **attention.bounds(lengths), "logits_to_keep": before}
    columns = learned.any(0)
    first = int(columns.int().argmax()) if bool(columns.any()) else 0
    return {**inputs, "logits_to_keep": learned.shape[1] - first + 1}


def targets(labels: torch.Tensor, logits_to_keep: int | torch.Tensor) -> torch.Tensor:
    """The labels (rows, kept) of the tokens whose log-probabilities a pass with `logits_to_keep` gives."""
    if isinstance(logits_to_keep, int):
        return labels[:, 1:][:, -(logits_to_keep - 1) :]
    following = labels[:, 1:]
    return following[following != IGNORED][None]


def summed_loss(network: Any, inputs: Mapping[str, Any], labels: torch.Tensor) -> torch.Tensor:
    """Sum of the negative log-likelihood over the learned tokens of a forward pass, a scalar in nats.

    inputs: those of the pass, with `logits_to_keep`. labels (rows, tokens), in host memory.
    """
    learned = process_group.moved(targets(labels, inputs["logits_to_keep"]), inputs["input_ids"].device)
    sampled, _ = logprobs.forward(network, inputs, learned.clamp(min=0))
    return -torch.where(learned != IGNORED, sampled, 0.0).sum()


def learned_tokens(batch: Batch) -> float:
    """Number of tokens of a batch that are predicted and learned."""
    return float((batch["labels"][:, 1:] != IGNORED).sum())


def held_out_loss(
    model: Any,
    samples: Sequence[Sample],
    collate: Callable[[Sequence[Sample]], Batch],
    ctx: Context,
    micro_batch: int,
    sharing: int = 1,
) -> dict[str, float]:
    """`loss`: mean nats a learned token on held-out samples; empty without samples. A collective.

    collate: makes the batch of samples that `model` takes. sharing: ranks that share a pass.
    """
    if not samples:
        return {}
    device = process_group.device(ctx)
    # ZeRO-3 gathers parameters in step, so all ranks make the same number of passes, the last ones maybe on a repeat.
    group, groups = ctx.rank // sharing, ctx.world_size // sharing
    passes = -(-len(samples) // (micro_batch * groups))
    total, tokens = torch.zeros((), device=device), 0.0
    for index in range(passes):
        start = (index * groups + group) * micro_batch
        own = samples[start : start + micro_batch]
        batch = on_device(collate(own or samples[:1]), device)
        loss = summed_loss(model, model_inputs(batch), batch["labels"])
        if own:
            total += loss
            tokens += learned_tokens(batch)
    loss_sum, tokens = process_group.sum_values([float(total), tokens])
    return {"loss": loss_sum / tokens}
