"""GRPO's objective and its named relatives, as pure functions on tensors (method.md 5.1).

Group-normalised advantages (Shao et al. 2024), clipped and dual-clipped policy ratios of tokens (Ye et al. 2020) or whole
sequences (GSPO, Zheng et al. 2025), the k3 estimate of the KL term, DAPO's bounds, token mean and overlong penalty
(Yu et al. 2025), Dr. GRPO's constant length and unscaled advantages (Liu et al. 2025), and the truncated importance
correction for rollouts of another policy or engine (Yao et al. 2025). B sequences, T response tokens, V vocabulary
entries. Logits come in any float type and are reduced in float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

_LOG_RATIO_LIMIT = 20.0  # exp() stays finite; far outside every clip, so no gradient that counts is lost
_KL_LIMIT = 10.0

Reduction = Literal["token", "sequence", "constant"]


def advantages(rewards: Tensor, scaled: bool = True) -> Tensor:
    """(r - mean) / (std + 1e-6) inside each group, with the unbiased standard deviation; r - mean if not `scaled`.

    `rewards` and the result have shape (groups, n), n >= 2. A group of equal rewards says nothing about its members:
    its advantages are exactly 0, also where the mean of equal floats is off by a rounding error.
    """
    if rewards.dim() != 2 or rewards.shape[1] < 2:
        raise ValueError(f"advantages need (groups, n >= 2) rewards, not a shape of {tuple(rewards.shape)}")
    rewards = rewards.double()
    found = rewards - rewards.mean(1, keepdim=True)
    if scaled:
        found = found / (rewards.std(1, keepdim=True) + 1e-6)
    return found.masked_fill(rewards.amax(1, keepdim=True) == rewards.amin(1, keepdim=True), 0.0).float()


def overlong(length: int, limit: int, margin: int) -> float:
    """DAPO's penalty of a rollout's length: 0 up to limit - margin tokens, then linear down to -1 at the limit."""
    return -max(0.0, length - (limit - margin)) / margin if margin else 0.0


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
class Objective:
    """Bounds and options of the loss.

    The ratio stays in [1 - low, 1 + high]; a negative advantage costs at most `dual` times itself (None: no bound).
    `kl_coef` weighs k3. `ratio`: of each token, or of the sequence (the geometric mean of its tokens'). `importance_cap`: the
    highest importance weight of a token that another policy or engine drew (None: none).
    """

    low: float = 0.2
    high: float = 0.3
    dual: float | None = 3.0
    kl_coef: float = field(kw_only=True)
    ratio: Literal["token", "sequence"] = "token"
    importance_cap: float | None = None


def k3(logp: Tensor, reference: Tensor) -> Tensor:
    """Schulman's k3 estimate of KL(policy || reference) of each token: e^d - d - 1, 0 to 10, d = reference - logp."""
    difference = (reference - logp).clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT)
    return (difference.expm1() - difference).clamp(0.0, _KL_LIMIT)  # below 0 is rounding alone


def ratios(logp: Tensor, old: Tensor, mask: Tensor, level: str = "token") -> Tensor:
    """Policy ratio: (B, T) of tokens, or (B, 1) of sequences."""
    difference = logp - old
    if level == "sequence":
        difference = (difference * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
    return difference.clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT).exp()


def token_losses(
    logp: Tensor,
    old: Tensor,
    advantage: Tensor,
    mask: Tensor,
    objective: Objective,
    engine: Tensor | None = None,
    reference: Tensor | None = None,
) -> Tensor:
    """Loss of each response token, (B, T), to be masked by the caller.

    `logp` (with gradient), `old`, `mask`, `engine` (log-probabilities when it was drawn) and `reference` are (B, T);
    `advantage` is (B,), one for all tokens of a sequence. Raises ValueError where an option lacks its tensor.
    """
    advantage = advantage.unsqueeze(1)
    ratio = ratios(logp, old, mask, objective.ratio)
    loss = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - objective.low, 1 + objective.high))
    if objective.dual is not None:
        loss = torch.where(advantage < 0, torch.minimum(loss, -advantage * objective.dual), loss)
    if objective.importance_cap is not None:
        if engine is None:
            raise ValueError("the importance correction needs the log-probabilities of the engine that drew the tokens")
        loss = loss * ratios(old, engine, mask).clamp(max=objective.importance_cap).detach()
    if objective.kl_coef > 0:
        if reference is None:
            raise ValueError("kl_coef > 0 needs the log-probabilities of a reference policy")
        loss = loss + objective.kl_coef * k3(logp, reference)
    return loss.expand_as(mask)


def whole(lengths: Sequence[int], by: Reduction, limit: int) -> float:
    """What `reduced` divides by for an update of rollouts of these lengths; `limit` is the longest there can be."""
    return float({"token": max(1, sum(lengths)), "sequence": len(lengths), "constant": len(lengths) * limit}[by])


def reduced(values: Tensor, mask: Tensor, by: Reduction, whole: float) -> Tensor:
    """This pass's share of an update's loss; the shares of all passes and ranks add up to the loss.

    token: mean over all tokens; sequence: mean over sequences of their own means; constant: sum over the tokens there
    could be, so that a long rollout weighs no less a token than a short one (Dr. GRPO).
    """
    if by == "sequence":
        return ((values * mask).sum(1) / mask.sum(1).clamp(min=1)).sum() / whole
    return (values * mask).sum() / whole
