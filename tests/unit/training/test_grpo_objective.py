"""The objective against arithmetic by hand, and its properties; tests/training compares it with TRL's."""

from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagcot.jobs.state.counts import nothing_of

GROUPS = st.lists(st.lists(st.floats(-3, 3), min_size=4, max_size=4), min_size=1, max_size=3)


@given(GROUPS)
def test_advantages_are_centred_with_unit_spread_or_zero(rewards):
    import torch

    from diagcot.training.rl import objective

    values = torch.tensor(rewards, dtype=torch.float64)
    result = objective.advantages(values)
    assert torch.isfinite(result).all()
    assert result.sum(1).abs().max() < 1e-3
    for group, advantage in zip(values, result, strict=True):
        assert (advantage == 0).all() if group.min() == group.max() else advantage.std() <= 1 + 1e-5


def test_equal_rewards_have_exactly_no_advantage():
    import torch

    from diagcot.training.rl import objective

    assert (objective.advantages(torch.full((2, 7), 0.1)) == 0).all()


def test_the_standard_deviation_is_unbiased():
    import torch

    from diagcot.training.rl import objective

    assert objective.advantages(torch.tensor([[0.0, 1.0]])).tolist() == [
        pytest.approx([-(0.5**0.5), 0.5**0.5], abs=1e-5)
    ]


def test_unscaled_advantages_are_differences_from_the_mean():
    import torch

    from diagcot.training.rl import objective

    assert objective.advantages(torch.tensor([[0.0, 1.0, 2.0]]), normalize=False).tolist() == [[-1.0, 0.0, 1.0]]


def test_a_group_of_one_is_refused():
    import torch

    from diagcot.training.rl import objective

    with pytest.raises(ValueError, match="n >= 2"):
        objective.advantages(torch.ones(4, 1))


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=8))
def test_k3_is_never_negative_and_bounded(difference):
    import torch

    from diagcot.training.rl import objective

    value = objective.k3(torch.zeros(len(difference)), torch.tensor(difference))
    assert (value >= 0).all() and (value <= 10).all()


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
    import torch

    from diagcot.training.rl import objective

    old, mask = torch.zeros(1, 1), torch.ones(1, 1)
    value = objective.token_losses(
        old + torch.tensor(ratio).log(), old, torch.tensor([advantage]), mask, objective.Objective(kl_coef=0.0)
    )
    assert value.item() == pytest.approx(loss, rel=1e-5)


def test_a_sequence_has_one_ratio_and_masked_tokens_no_part_in_it():
    import torch

    from diagcot.training.rl import objective

    logp = torch.tensor([[0.1, 0.3, 50.0]]).log()
    old = torch.tensor([[0.2, 0.2, 1.0]]).log()
    mask = torch.tensor([[1.0, 1.0, 0.0]])
    value = objective.token_losses(
        logp, old, torch.tensor([1.0]), mask, objective.Objective(0.2, 0.3, ratio="sequence", kl_coef=0.0)
    )
    assert value.tolist() == [pytest.approx([-(0.75**0.5)] * 3, rel=1e-5)]  # sqrt(0.5 * 1.5)


@pytest.mark.parametrize(("drawn", "weight"), [(0.4, 0.5), (0.1, 2.0), (0.01, 2.0)])
def test_the_importance_weight_is_capped(drawn, weight):
    import torch

    from diagcot.training.rl import objective

    logp = torch.full((1, 1), 0.2).log()
    engine = torch.full((1, 1), drawn).log()
    value = objective.token_losses(
        logp, logp, torch.tensor([1.0]), torch.ones(1, 1), objective.Objective(importance_cap=2.0, kl_coef=0.0), engine
    )
    assert value.item() == pytest.approx(-weight, rel=1e-5)


@pytest.mark.parametrize(
    ("gap", "warns", "ends"),
    [(1e-3, False, False), (0.039, True, False), (0.064, True, False), (0.2, True, True), (float("nan"), False, True)],
)
def test_the_gap_of_bf16_warns_and_only_other_weights_end_a_stage(gap, warns, ends):
    """Published gaps of bf16 trainers against vLLM are 0.039 to 0.064 nats a token; a gap that is no number is a fault."""
    from diagcot.training.config.grpo_settings import GrpoSettings
    from diagcot.training.rl.policy import check_gap

    settings = GrpoSettings()
    assert (gap > settings.warn_gap) == warns
    with pytest.raises(FloatingPointError, match="do not hold the policy's weights") if ends else nullcontext():
        check_gap(gap, settings.max_gap)


def test_an_option_without_its_tensor_is_refused():
    import torch

    from diagcot.training.rl import objective

    zero = torch.zeros(1, 1)
    incomplete: list[dict[str, Any]] = [{"importance_cap": 2.0, "kl_coef": 0.0}, {"kl_coef": 0.1}]
    for options in incomplete:
        with pytest.raises(ValueError, match="needs the log-probabilities"):
            objective.token_losses(zero, zero, torch.ones(1), torch.ones(1, 1), objective.Objective(**options))


def test_the_penalty_of_length_is_linear_up_to_the_limit():
    from diagcot.training.rl import objective

    assert [objective.overlong_penalty(length, 100, 20) for length in (10, 80, 90, 100)] == [0, 0, -0.5, -1]
    assert objective.overlong_penalty(100, 100, 0) == 0


@given(st.sampled_from(["token", "sequence", "constant"]), st.integers(1, 6), st.integers(0, 99))
def test_passes_add_up_to_the_whole_update(by, size, seed):
    import torch

    from diagcot.training.rl import objective

    torch.manual_seed(seed)
    values, mask = torch.randn(6, 9), (torch.arange(9) < torch.randint(1, 10, (6, 1))).float()
    lengths = mask.sum(1).int().tolist()
    total = objective.divisor(lengths, by, 9)
    parts = [objective.aggregate(values[at : at + size], mask[at : at + size], by, total) for at in range(0, 6, size)]
    expected = {
        "token": (values * mask).sum() / mask.sum(),
        "sequence": torch.stack([row[keep > 0].mean() for row, keep in zip(values, mask, strict=True)]).mean(),
        "constant": (values * mask).sum() / 54,
    }[by]
    assert float(sum(parts)) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("by", ["token", "sequence", "constant"])
def test_rollouts_that_are_cut_enter_the_figures_and_not_the_loss(by, tmp_path, monkeypatch):
    """Policy.update with `mask_cut` makes the loss and gradient of an update without the cut rollouts, exactly."""
    import torch

    from diagcot.jobs.testing import context
    from diagcot.training.config.grpo_settings import GrpoSettings
    from diagcot.training.rl import objective, policy
    from diagcot.training.rl.micro_batches import MicroBatch
    from diagcot.training.rl.rollout import Rollout

    torch.manual_seed(3)
    lengths, cut = [3, 5, 2, 5], [False, True, False, True]
    weights, drawn, advantage = torch.randn(4, 5), -torch.rand(4, 5), torch.tensor([1.0, -2.0, 0.5, 3.0])
    mask = (torch.arange(5) < torch.tensor(lengths).unsqueeze(1)).float()
    monkeypatch.setattr(policy.process_group, "sum_values", list)

    def update(rows, masked):
        values = weights[rows].clone().requires_grad_()
        trained: Any = object.__new__(policy.Policy)
        trained.settings = GrpoSettings().model_copy(
            update={"mask_cut": masked, "loss_aggregation": by, "max_tokens": 5}
        )
        trained.objective, trained.reference = objective.Objective(kl_coef=0.0), None
        trained.ctx, trained.engine = context(tmp_path), FakeEngine()
        trained._logprobs = lambda engine, batch: (-values.exp(), -values.exp().detach())
        batch = MicroBatch({}, mask[rows], mask[rows], advantage[rows], torch.tensor(cut)[rows], drawn[rows])
        rollouts = [Rollout(0, "", (1,) * lengths[row], (-1.0,) * lengths[row], cut[row], (), 9) for row in rows]
        return trained.update([batch], rollouts, float("inf")), values.grad

    figures, gradient = update([0, 1, 2, 3], masked=True)
    without, expected = update([0, 2], masked=False)
    whole, unmasked = update([0, 1, 2, 3], masked=False)
    assert figures["loss"] == pytest.approx(without["loss"]) != pytest.approx(whole["loss"])
    assert torch.allclose(gradient[[0, 2]], expected) and (gradient[[1, 3]] == 0).all()
    assert (unmasked[[1, 3]] != 0).any()
    assert figures["entropy"] == pytest.approx(whole["entropy"]) != pytest.approx(without["entropy"])
    nothing, gradient = update([1, 3], masked=True)
    assert nothing["loss"] == 0 and (gradient == 0).all()


class FakeEngine:
    """As much of DeepSpeed's engine as an update calls."""

    def backward(self, loss):
        loss.backward()

    def step(self):
        pass

    def get_global_grad_norm(self):
        return 0.0


def test_what_all_steps_had_to_learn_from_is_counted_from_the_log(tmp_path):
    from diagcot.training.config.grpo_settings import GrpoSettings
    from diagcot.training.rl.experience import learning_counts

    deepspeed = {"steps": 2, "global_batch": 8, "micro_batch": 8, "learning_rate": 1e-4}
    settings = GrpoSettings.model_validate({"prompts_per_step": 4, "group_size": 2, "deepspeed": deepspeed})
    log = tmp_path / "train.jsonl"
    log.write_text('{"step": 1, "flat": 1.0, "cut": 1.0}\n{"step": 2, "flat": 0.75, "cut": 1.0}\n')
    assert list(learning_counts(log, settings)["needed"].values()) == [1, 0]
    assert nothing_of(learning_counts(log, settings)) == ["rollouts that end before max_tokens"]
    nevertheless = settings.model_copy(update={"precheck_groups": 0})
    assert learning_counts(log, nevertheless) == {"warnings": ["it has no rollouts that end before max_tokens"]}
