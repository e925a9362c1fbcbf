"""The objective against TRL's own loss, against arithmetic by hand, and its properties."""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diagcot.training.objective import Clip, advantages, k3, logprobs, token_losses, token_mean

GROUPS = st.lists(st.lists(st.floats(-3, 3), min_size=4, max_size=4), min_size=1, max_size=3)


@given(GROUPS)
def test_advantages_are_centred_with_unit_spread_or_zero(rewards):
    values = torch.tensor(rewards, dtype=torch.float64)
    result = advantages(values)
    assert torch.isfinite(result).all()
    assert result.sum(1).abs().max() < 1e-3
    for group, advantage in zip(values, result, strict=True):
        assert (advantage == 0).all() if group.min() == group.max() else advantage.std() <= 1 + 1e-5


def test_equal_rewards_have_exactly_no_advantage():
    assert (advantages(torch.full((2, 7), 0.1)) == 0).all()


def test_the_standard_deviation_is_unbiased():
    assert advantages(torch.tensor([[0.0, 1.0]])).tolist() == [pytest.approx([-(0.5**0.5), 0.5**0.5], abs=1e-5)]


def test_a_group_of_one_is_refused():
    with pytest.raises(ValueError, match="n >= 2"):
        advantages(torch.ones(4, 1))


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=8))
def test_k3_is_never_negative_and_bounded(difference):
    value = k3(torch.zeros(len(difference)), torch.tensor(difference))
    assert (value >= 0).all() and (value <= 10).all()


def test_logprobs_are_those_of_the_sampled_distribution():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 11, requires_grad=True)
    tokens = torch.randint(0, 8, (2, 3))
    sampled, raw = logprobs(logits, tokens, temperature=0.9, banned=[8, 10])
    biased = logits.detach().clone()
    biased[..., [8, 10]] = float("-inf")
    expected = torch.log_softmax(biased / 0.9, -1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    assert torch.allclose(sampled, expected, atol=1e-6)
    assert torch.allclose(raw, torch.log_softmax(logits, -1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1), atol=1e-6)
    sampled.sum().backward()
    assert torch.isfinite(logits.grad).all() and (logits.grad[..., [8, 10]] == 0).all()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [
        (1.1, 1.0, -1.1),
        (2.0, 1.0, -1.3),  # clipped above
        (0.1, 1.0, -0.1),
        (0.1, -1.0, 0.8),  # clipped below
        (2.0, -1.0, 2.0),
        (9.0, -1.0, 3.0),  # dual clip
    ],
)
def test_clipping_by_hand(ratio, advantage, loss):
    old = torch.zeros(1, 1)
    value = token_losses(old + torch.tensor(ratio).log(), old, torch.tensor([advantage]), Clip())
    assert value.item() == pytest.approx(loss, rel=1e-5)


def _batch():
    torch.manual_seed(7)
    logp = -torch.rand(6, 9) * 3
    old, reference = logp + 0.2 * torch.randn(6, 9), logp + 0.3 * torch.randn(6, 9)
    mask = (torch.arange(9) < torch.randint(3, 10, (6, 1))).float()
    return logp.requires_grad_(), old, reference, advantages(torch.rand(2, 3)).flatten(), mask


def test_loss_and_gradient_equal_those_of_trl():
    """TRL has no dual clip of this kind and no clamps; inside their bounds the two losses are the same function."""
    trainer = pytest.importorskip("trl.trainer.grpo_trainer").GRPOTrainer
    logp, old, reference, advantage, mask = _batch()
    stub = SimpleNamespace(
        aux_loss_enabled=False, top_entropy_quantile=1.0, off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=0.05, args=SimpleNamespace(use_bias_correction_kl=False, delta=None), loss_type="bnpo", epsilon_low=0.2,
        epsilon_high=0.3, use_vllm=False, current_gradient_accumulation_steps=1, _entropy_bonus_enabled=False,
        model=SimpleNamespace(training=True), _metrics={"train": defaultdict(list)},
        accelerator=SimpleNamespace(gather=lambda value: value, reduce=lambda value, reduction: value),
        _get_per_token_logps_and_entropies=lambda *_, **__: (logp, torch.zeros(6, 9), None),
    )  # fmt: skip
    inputs = {
        "prompt_ids": torch.zeros(6, 1, dtype=torch.long), "prompt_mask": torch.ones(6, 1), "completion_mask": mask,
        "completion_ids": torch.zeros(6, 9, dtype=torch.long), "advantages": advantage,
        "old_per_token_logps": old, "ref_per_token_logps": reference,
    }  # fmt: skip
    theirs = trainer._compute_loss(stub, None, inputs)
    (their_gradient,) = torch.autograd.grad(theirs, logp, retain_graph=True)
    ours = token_mean(token_losses(logp, old, advantage, Clip(0.2, 0.3, 3.0), reference, kl=0.05), mask)
    (gradient,) = torch.autograd.grad(ours, logp)
    assert abs(ours.item() - theirs.item()) < 1e-5
    assert torch.allclose(gradient, their_gradient, atol=1e-5)


def test_micro_batches_add_up_to_the_whole_batch():
    logp, old, _, advantage, mask = _batch()
    whole = token_mean(token_losses(logp, old, advantage, Clip()), mask)
    parts = [
        token_mean(
            token_losses(logp[i : i + 2], old[i : i + 2], advantage[i : i + 2], Clip()), mask[i : i + 2], mask.sum()
        )
        for i in (0, 2, 4)
    ]
    assert sum(parts).item() == pytest.approx(whole.item(), abs=1e-6)
