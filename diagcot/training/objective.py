"""GRPO's objective: group-normalised advantages, dual-clipped PPO and the k3 estimate of the KL term (method.md 5.1).

Pure functions on tensors; B sequences, T response tokens, V vocabulary entries. Logits come in any float type and are
reduced in float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_LOG_RATIO_LIMIT = 20.0  # exp() stays finite; far outside every clip, so no gradient that counts is lost
_KL_LIMIT = 10.0


def advantages(rewards: Tensor) -> Tensor:
    """(r - mean) / (std + 1e-6) inside each group, with the unbiased standard deviation.

    `rewards` and the result have shape (groups, n), n >= 2. A group of equal rewards says nothing about its members:
    its advantages are exactly 0, also where the mean of equal floats is off by a rounding error.
    """
    if rewards.dim() != 2 or rewards.shape[1] < 2:
        raise ValueError(f"advantages need (groups, n >= 2) rewards, not a shape of {tuple(rewards.shape)}")
    rewards = rewards.double()
    normalised = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-6)
    equal = rewards.amax(1, keepdim=True) == rewards.amin(1, keepdim=True)
    return normalised.masked_fill(equal, 0.0).float()


def logprobs(logits: Tensor, tokens: Tensor, temperature: float, banned: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Log-probabilities of `tokens` (B, T) under `logits` (B, T, V): (sampled, raw), each (B, T) in nats.

    `sampled` is the distribution that rollouts are drawn from, which the objective needs: the banned ids masked,
    logits divided by `temperature`. `raw` is the model's own distribution, which is what vLLM reports in its default
    `raw_logprobs` mode, before bias and temperature: the two engines are compared on it.
    """
    logits = logits.float()
    chosen = logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    with torch.no_grad():
        raw = chosen - logits.logsumexp(-1)
    if banned:
        mask = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
        mask[list(banned)] = True
        logits = logits.masked_fill(mask, float("-inf"))
    sampled = chosen / temperature - (logits / temperature).logsumexp(-1)
    return sampled, raw


@dataclass(frozen=True)
class Clip:
    """PPO's bounds: the ratio stays in [1 - low, 1 + high]; a negative advantage costs at most `dual` times itself."""

    low: float = 0.2
    high: float = 0.3
    dual: float = 3.0


def k3(logp: Tensor, reference: Tensor) -> Tensor:
    """Schulman's k3 estimate of KL(policy || reference) of each token: e^d - d - 1, 0 to 10, d = reference - logp."""
    difference = (reference - logp).clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT)
    return (difference.expm1() - difference).clamp(0.0, _KL_LIMIT)  # below 0 is rounding alone


def token_losses(
    logp: Tensor, old: Tensor, advantage: Tensor, clip: Clip, reference: Tensor | None = None, kl: float = 0.0
) -> Tensor:
    """Loss of each response token, (B, T): dual-clipped PPO plus `kl` times k3 as a loss.

    `logp` (with gradient), `old` and `reference` are (B, T); `advantage` is (B,), one for all tokens of a sequence.
    """
    advantage = advantage.unsqueeze(1)
    ratio = (logp - old).clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT).exp()
    loss = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - clip.low, 1 + clip.high))
    loss = torch.where(advantage < 0, torch.minimum(loss, -advantage * clip.dual), loss)
    if kl > 0:
        if reference is None:
            raise ValueError("kl > 0 needs the log-probabilities of a reference policy")
        loss = loss + kl * k3(logp, reference)
    return loss


def token_mean(values: Tensor, mask: Tensor, tokens: float | Tensor | None = None) -> Tensor:
    """Mean of (B, T) `values` over the tokens of `mask`; `tokens` is their number in the whole batch of all ranks."""
    return (values * mask).sum() / (mask.sum().clamp(min=1) if tokens is None else tokens)
