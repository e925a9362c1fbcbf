"""The causal language-model loss over the assistant's tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from diagcot.jobs import Context
from diagcot.tasks.samples import Sample
from diagcot.training.data.collator import IGNORED, Batch, Collator
from diagcot.training.distributed import process_group
from diagcot.training.losses import logprobs

MODEL_INPUTS = ("input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "image_grid_thw")

_IN_HOST_MEMORY = ("labels", "image_counts")


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on `device`, except for what says how a pass is cut: reading that there would make the host wait."""
    return {
        name: value if name in _IN_HOST_MEMORY else value.to(device, non_blocking=True) for name, value in batch.items()
    }


def model_inputs(batch: Batch) -> dict[str, Any]:
    """The arguments of the model's forward pass, with logits only from the first learned token on.

    The prompt with its image holds most of the tokens; their logits over the whole vocabulary are never needed.
    """
    inputs = {name: value for name, value in batch.items() if name in MODEL_INPUTS}
    learned = (batch["labels"] != IGNORED).any(0)
    first = int(learned.int().argmax()) if bool(learned.any()) else 0
    return {**inputs, "logits_to_keep": batch["labels"].shape[1] - first + 1}


def summed_loss(network: Any, inputs: Mapping[str, Any], labels: torch.Tensor) -> torch.Tensor:
    """Sum of the negative log-likelihood over the learned tokens of a forward pass, a scalar in nats.

    inputs: those of the pass, with `logits_to_keep`. labels (samples, tokens).
    """
    device = inputs["input_ids"].device
    targets = labels[:, 1:][:, -(inputs["logits_to_keep"] - 1) :].to(device, non_blocking=True)
    sampled, _ = logprobs.forward(network, inputs, targets.clamp(min=0))
    return -torch.where(targets != IGNORED, sampled, 0.0).sum()


def learned_tokens(batch: Batch) -> float:
    """Number of tokens of a batch that are predicted and learned."""
    return float((batch["labels"][:, 1:] != IGNORED).sum())


def held_out_loss(
    model: Any, samples: Sequence[Sample], collator: Collator, ctx: Context, micro_batch: int
) -> dict[str, float]:
    """`loss`: mean nats a learned token on held-out samples; empty without samples. A collective."""
    if not samples:
        return {}
    device = process_group.device(ctx)
    # ZeRO-3 gathers parameters in step, so all ranks make the same number of passes, the last ones maybe on a repeat.
    passes = -(-len(samples) // (micro_batch * ctx.world_size))
    total = tokens = 0.0
    for index in range(passes):
        start = (index * ctx.world_size + ctx.rank) * micro_batch
        own = samples[start : start + micro_batch]
        batch = on_device(collator(own or samples[:1]), device)
        loss = summed_loss(model, model_inputs(batch), batch["labels"])
        if own:
            total += float(loss)
            tokens += learned_tokens(batch)
    total, tokens = process_group.sum_values([total, tokens])
    return {"loss": total / tokens}
