"""GRPO's objective and its variants, as pure functions on tensors.

Sources: group-normalised advantages (GRPO: Shao et al. 2024, arXiv:2402.03300, section 4.1), clipped ratios of tokens
(PPO: Schulman et al. 2017, arXiv:1707.06347, section 3), dual clipping (Ye et al. 2020, arXiv:1912.09729),
ratios of whole sequences (GSPO: Zheng et al. 2025, arXiv:2507.18071), asymmetric bounds, token mean, overlong penalty and
overlong filtering (DAPO: Yu et al. 2025, arXiv:2503.14476, section 3), constant length and unscaled advantages (Dr. GRPO: Liu
et al. 2025, arXiv:2503.20783), weights instead of clipped ratios (CISPO: MiniMax 2025, arXiv:2506.13585, section 3.1),
leave-one-out baselines (RLOO: Ahmadian et al. 2024, arXiv:2402.14740, section 3.1), advantages normalised over the batch
(REINFORCE++: Hu et al. 2025, arXiv:2501.03262, section 3; as verl computes them), and the capped importance weight for
rollouts of another policy or server (Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL
training"). DiagCoT trains with EasyR1, whose formulas these
are (verl/trainer/core_algos.py).

Shapes: B sequences, T response tokens. Log-probabilities are in nats (`diagcot.training.losses.logprobs`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

_LOG_RATIO_LIMIT = 20.0  # keeps exp() finite; far outside every bound, so no gradient that counts is lost
_KL_LIMIT = 10.0

Aggregation = Literal["token", "sequence", "constant"]
Level = Literal["token", "sequence"]
PolicyLoss = Literal["ppo", "cispo"]


def advantages(rewards: Tensor, normalize: bool = True) -> Tensor:
    """(r - mean) / (std + 1e-6) inside each group, with the unbiased standard deviation; r - mean if not `normalize`.

    `rewards` and the result have shape (groups, n), n >= 2; raises ValueError for another shape. A group of equal rewards
    says nothing about its members: its advantages are exactly 0, also where the mean of equal floats is off by rounding.
    """
    if rewards.dim() != 2 or rewards.shape[1] < 2:
        raise ValueError(f"advantages need (groups, n >= 2) rewards, not a shape of {tuple(rewards.shape)}")
    rewards = rewards.double()
    values = rewards - rewards.mean(1, keepdim=True)
    if normalize:
        values = values / (rewards.std(1, keepdim=True) + 1e-6)
    return values.masked_fill(rewards.amax(1, keepdim=True) == rewards.amin(1, keepdim=True), 0.0).float()


def leave_one_out(rewards: Tensor) -> Tensor:
    """Reward minus the mean of the others of its group (RLOO). Shapes are those of `advantages`."""
    return advantages(rewards, normalize=False) * (rewards.shape[1] / (rewards.shape[1] - 1))


def whitened(rewards: Tensor, lengths: Tensor) -> Tensor:
    """(r - mean) / std over all tokens of the batch, each of which has its rollout's reward (REINFORCE++ without discount).

    rewards and lengths, in tokens: (groups, n). Rewards that are all equal have advantages of exactly 0.
    """
    values, weights = rewards.double(), lengths.double()
    tokens = weights.sum()
    values = values - (values * weights).sum() / tokens
    variance = (values**2 * weights).sum() / (tokens - 1).clamp(min=1)
    return (values * (variance + 1e-8).rsqrt()).masked_fill(rewards.amax() == rewards.amin(), 0.0).float()


def overlong_penalty(length: int, limit: int, margin: int) -> float:
    """DAPO's penalty of a rollout's length in tokens: 0 up to limit - margin, then linear down to -1 at the limit."""
    return -max(0.0, length - (limit - margin)) / margin if margin else 0.0


@dataclass(frozen=True)
class Objective:
    """Bounds and options of the loss.

    loss: of PPO, where low and high keep the ratio in [1 - low, 1 + high] and a negative advantage costs at most `dual` times
    itself (None: no bound); or of CISPO, where the ratio, at most 1 + high, is a weight without gradient, so that no token
    loses its gradient; low and dual have no part in it. kl_coef: weight of k3. ratio: of each token, or of the sequence (the
    geometric mean of its tokens'). importance_cap: cap on the importance weights of tokens that another policy or server drew;
    None disables them.
    """

    low: float = 0.2
    high: float = 0.3
    dual: float | None = 3.0
    kl_coef: float = field(kw_only=True)
    ratio: Level = "token"
    loss: PolicyLoss = "ppo"
    importance_cap: float | None = None


def k3(policy: Tensor, reference: Tensor) -> Tensor:
    """Schulman's k3 estimate of KL(policy || reference) for each token, from log-probabilities of any shape.

    e^d - d - 1 with d = reference - policy, clamped to 0 to 10 nats ("Approximating KL divergence", joschu.net, 2020).
    """
    difference = (reference - policy).clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT)
    return (difference.expm1() - difference).clamp(0.0, _KL_LIMIT)  # values below 0 are rounding errors


def ratios(policy: Tensor, old: Tensor, mask: Tensor, level: Level = "token") -> Tensor:
    """Probability ratio of policy and old policy: (B, T) of tokens, or (B, 1) of sequences. All arguments are (B, T)."""
    difference = policy - old
    if level == "sequence":
        difference = (difference * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
    return difference.clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT).exp()


def token_losses(
    policy: Tensor,
    old: Tensor,
    advantage: Tensor,
    mask: Tensor,
    objective: Objective,
    rollout: Tensor | None = None,
    reference: Tensor | None = None,
) -> Tensor:
    """Loss of each response token, (B, T), to be masked by the caller.

    policy (with gradient), old, rollout (when the token was drawn) and reference: log-probabilities (B, T). mask: (B, T),
    1 for tokens of the rollout. advantage: (B,), one for all tokens of a sequence. Raises ValueError where an option
    lacks its tensor.
    """
    advantage = advantage.unsqueeze(1)
    ratio = ratios(policy, old, mask, objective.ratio)
    if objective.loss == "cispo":
        loss = -advantage * ratio.clamp(max=1 + objective.high).detach() * policy
    else:
        loss = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - objective.low, 1 + objective.high))
    if objective.dual is not None and objective.loss == "ppo":
        loss = torch.where(advantage < 0, torch.minimum(loss, -advantage * objective.dual), loss)
    if objective.importance_cap is not None:
        if rollout is None:
            raise ValueError("importance_cap needs the log-probabilities of the server that drew the tokens")
        loss = loss * ratios(old, rollout, mask).clamp(max=objective.importance_cap).detach()
    if objective.kl_coef > 0:
        if reference is None:
            raise ValueError("kl_coef > 0 needs the log-probabilities of a reference policy")
        loss = loss + objective.kl_coef * k3(policy, reference)
    return loss.expand_as(mask)


def uncut(mask: Tensor, cut: Tensor) -> Tensor:
    """The mask (B, T) without the rollouts that are `cut` (B,): their tokens do not enter the loss (DAPO, section 3.4)."""
    return mask * (~cut).unsqueeze(1)


def divisor(lengths: Sequence[int], aggregation: Aggregation, limit: int) -> float:
    """What `aggregate` divides by, for an update of rollouts of these lengths in tokens; `limit` is the longest possible.

    Rollouts that do not enter the loss are left out of `lengths`; without any, 1.
    """
    divisors = {"token": sum(lengths), "sequence": len(lengths), "constant": len(lengths) * limit}
    return float(max(1, divisors[aggregation]))


def aggregate(losses: Tensor, mask: Tensor, aggregation: Aggregation, divided_by: float) -> Tensor:
    """This pass's share of an update's loss, a scalar; the shares of all passes and ranks add up to the loss.

    losses, mask: (B, T). token: mean over all tokens; sequence: mean over sequences of their own means; constant: sum
    over the longest possible number of tokens, so that a token of a long rollout weighs no less (Dr. GRPO).
    """
    if aggregation == "sequence":
        return ((losses * mask).sum(1) / mask.sum(1).clamp(min=1)).sum() / divided_by
    return (losses * mask).sum() / divided_by
