"""Log-probabilities of given tokens, without the logits of a whole pass.

The logits of a pass over 152,064 words, with the copies and gradients that a loss makes of them, would take more memory
than its other activations. Here the output head runs over CHUNK_TOKENS tokens at a time and keeps one number of each; the
backward pass computes the logits of a chunk again (as Wijmans et al. 2024, arXiv:2411.09009, and liger-kernel do).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from diagcot.training.cost.workload import CHUNK_TOKENS
from diagcot.training.models import attention


def forward(
    network: Any, inputs: Mapping[str, Any], tokens: Tensor, temperature: float = 1.0, banned: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of `tokens` (B, T) in a forward pass of `network`: (sampled, raw), each (B, T) float32, nats.

    network: a vision-language model or its DeepSpeed engine. inputs: those of its forward pass, with `logits_to_keep`
    T + 1 or the T positions before the tokens, or none if the pass has T + 1 tokens. `sampled` is the distribution that
    rollouts are drawn from: the ids `banned` have no part in it and logits are divided by `temperature`. `raw` (no gradient)
    is the model's own distribution, which is what vLLM reports in its default mode `raw_logprobs`.
    """
    module = getattr(network, "module", network)
    head = module.get_output_embeddings()

    def scores(hidden: Tensor) -> Tensor:
        rows = hidden[:, : tokens.shape[1]].reshape(-1, hidden.shape[-1])
        flat = _Logprobs.apply(rows, head.weight, tokens.reshape(-1), temperature, banned)
        return flat.view(*tokens.shape, 2)

    # Inside the head's own forward pass, since ZeRO-3 has its weights only there.
    head.forward = scores
    try:
        sampled, raw = network(**attention.placed(module, dict(inputs))).logits.unbind(-1)
    finally:
        del head.forward
    return sampled, raw.detach()


class _Logprobs(torch.autograd.Function):
    """(tokens, 2): `sampled` and `raw` of rows (tokens, hidden) through the head's weight (vocabulary, hidden)."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, tokens: Tensor, temperature: float, banned: Tensor | None
    ) -> Tensor:
        results, normalizers = [], []
        for part, names in zip(rows.split(CHUNK_TOKENS), tokens.split(CHUNK_TOKENS), strict=True):
            logits = _logits(part, weight)
            chosen = logits.gather(1, names[:, None])[:, 0]
            raw = _normalizer(logits)
            drawn = _normalizer(_sampled(logits, temperature, banned))
            results.append(torch.stack([chosen / temperature - drawn, chosen - raw], 1))
            normalizers.append(drawn)
            del logits  # before those of the next chunk
        ctx.save_for_backward(rows, weight, tokens, torch.cat(normalizers))
        ctx.temperature, ctx.banned = temperature, banned
        return torch.cat(results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, tokens, normalizers = ctx.saved_tensors
        slopes = gradients[0][:, :1] / ctx.temperature
        rows_gradient = torch.empty_like(rows) if ctx.needs_input_grad[0] else None
        # In float32: the sum over many chunks would lose small parts in bf16.
        weight_gradient = weight.new_zeros(weight.shape, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        for start in range(0, len(rows), CHUNK_TOKENS):
            part = slice(start, start + CHUNK_TOKENS)
            logits = _sampled(_logits(rows[part], weight), ctx.temperature, ctx.banned)
            probabilities = logits.sub_(normalizers[part, None]).exp_()
            change = probabilities.mul_(-slopes[part]).scatter_add_(1, tokens[part, None], slopes[part])
            change = change.to(weight.dtype)
            del logits, probabilities
            if rows_gradient is not None:
                rows_gradient[part] = change @ weight
            if weight_gradient is not None:
                weight_gradient += change.T @ rows[part]
        return rows_gradient, None if weight_gradient is None else weight_gradient.to(weight.dtype), None, None, None


def _logits(rows: Tensor, weight: Tensor) -> Tensor:
    return (rows @ weight.T).float()


def _sampled(logits: Tensor, temperature: float, banned: Tensor | None) -> Tensor:
    """The logits of the distribution that is sampled, in place."""
    if banned is not None and len(banned):
        logits.index_fill_(1, banned, float("-inf"))
    return logits.div_(temperature)


def _normalizer(logits: Tensor) -> Tensor:
    """log of the sum of exp, for each row."""
    largest = logits.amax(1, keepdim=True)
    return (logits - largest).exp_().sum(1).log_() + largest[:, 0]
