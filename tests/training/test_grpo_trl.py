"""The objective against TRL's own: the same tiny model, the same batch, loss and gradient of every weight to 1e-5."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch

from diagcot.training.losses import logprobs
from diagcot.training.rl.objective import (
    Objective,
    advantages,
    aggregate,
    divisor,
    leave_one_out,
    token_losses,
    whitened,
)

pytestmark = pytest.mark.heavy

LIMIT = 9
CASES: dict[str, tuple[dict[str, Any], Objective, str]] = {
    "grpo": ({"loss_type": "grpo"}, Objective(0.2, 0.2, None, kl_coef=0.0), "sequence"),
    "bnpo": ({"loss_type": "bnpo", "epsilon_high": 0.3}, Objective(0.2, 0.3, None, kl_coef=0.0), "token"),
    "dapo": ({"loss_type": "dapo", "epsilon_high": 0.28}, Objective(0.2, 0.28, None, kl_coef=0.0), "token"),
    "dr_grpo": ({"loss_type": "dr_grpo", "scale_rewards": "none"}, Objective(0.2, 0.2, None, kl_coef=0.0), "constant"),
    "gspo": (
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-2, "epsilon_high": 4e-2},
        Objective(3e-2, 4e-2, None, ratio="sequence", kl_coef=0.0),
        "sequence",
    ),
    "dual clip": (
        {"loss_type": "bnpo", "epsilon_high": 0.3, "delta": 1.4},
        Objective(0.2, 0.3, 1.4, kl_coef=0.0),
        "token",
    ),
    "k3": ({"loss_type": "bnpo", "beta": 0.05}, Objective(0.2, 0.2, None, kl_coef=0.05), "token"),
    "k3, gspo": (
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "beta": 0.05},
        Objective(0.2, 0.2, None, kl_coef=0.05, ratio="sequence"),
        "sequence",
    ),
    "cispo": (
        {"loss_type": "cispo", "epsilon_high": 1.3},
        Objective(0.2, 0.3, None, kl_coef=0.0, loss="cispo"),
        "token",
    ),
    "cispo, k3": (
        {"loss_type": "cispo", "epsilon_high": 1.2, "beta": 0.05},
        Objective(0.2, 0.2, 3.0, kl_coef=0.05, loss="cispo"),
        "token",
    ),
    "correction": ({"loss_type": "bnpo"}, Objective(0.2, 0.2, None, importance_cap=1.1, kl_coef=0.0), "token"),
}


@pytest.fixture(scope="module")
def trainer_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes TRL's real trainer for a case, over one tiny language model."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    words = {word: number for number, word in enumerate(["<pad>", "<end>", *(f"w{n}" for n in range(30))])}
    plain = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="<end>")
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    network = Qwen2ForCausalLM(config)
    folder: Path = tmp_path_factory.mktemp("trl")

    def make(options: dict[str, Any]) -> Any:
        args = GRPOConfig(
            output_dir=str(folder), use_cpu=True, bf16=False, report_to="none", num_generations=3,
            per_device_train_batch_size=6, gradient_accumulation_steps=1, max_completion_length=LIMIT,
            temperature=0.9, gradient_checkpointing=False, use_bias_correction_kl=False,
            **{name: value for name, value in options.items() if name != "beta"},
        )  # fmt: skip
        trainer = GRPOTrainer(
            model=network,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=args,
            train_dataset=Dataset.from_dict({"prompt": ["w1 w2"] * 6}),
            processing_class=tokenizer,
        )
        trainer.current_gradient_accumulation_steps = 1
        trainer.beta = options.get("beta", 0.0)  # as an argument it would have TRL look for a reference model
        trainer.model.train()
        return trainer

    return make


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_equal_trls(case: str, trainer_of: Any) -> None:
    options, objective, by = CASES[case]
    trainer = trainer_of(options)
    torch.manual_seed(7)
    prompt, completion = torch.randint(2, 32, (6, 4)), torch.randint(2, 32, (6, LIMIT))
    mask = (torch.arange(LIMIT) < torch.randint(3, LIMIT + 1, (6, 1))).float()
    rewards = torch.rand(2, 3)
    # TRL adds 1e-4 to the standard deviation, EasyR1 (and we) 1e-6; advantages are inputs of the loss here.
    advantage = advantages(rewards, normalize=options.get("scale_rewards") != "none").flatten()

    def policy() -> torch.Tensor:
        ids = torch.cat([prompt, completion], 1)
        seen = torch.cat([torch.ones_like(prompt), mask.long()], 1)
        inputs = {"input_ids": ids, "attention_mask": seen, "logits_to_keep": LIMIT + 1}
        return logprobs.forward(trainer.model, inputs, completion, 0.9)[0]

    now = policy().detach()
    old, reference, engine = (now + spread * torch.randn(6, LIMIT) for spread in (0.25, 0.3, 0.2))
    inputs = {
        "prompt_ids": prompt, "prompt_mask": torch.ones_like(prompt), "completion_ids": completion,
        "completion_mask": mask.long(), "advantages": advantage, "old_per_token_logps": old,
        "ref_per_token_logps": reference, "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    if objective.importance_cap is not None:  # what it makes of the engine's log-probabilities before its loss
        trainer.use_vllm, trainer.vllm_importance_sampling_correction = True, True
        inputs["importance_sampling_ratio"] = ((old - engine) * mask).exp().clamp(max=objective.importance_cap)
    theirs = trainer._compute_loss(trainer.model, inputs)
    names = [name for name, one in trainer.model.named_parameters() if one.requires_grad]
    weights = [one for one in trainer.model.parameters() if one.requires_grad]
    their_gradients = torch.autograd.grad(theirs, weights)

    values = token_losses(policy(), old, advantage, mask, objective, engine, reference)
    ours = aggregate(values, mask, by, divisor(mask.sum(1).int().tolist(), by, LIMIT))  # type: ignore[arg-type]
    gradients = torch.autograd.grad(ours, weights)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    assert max(float(one.abs().max()) for one in gradients) > 1e-3
    for name, one, other in zip(names, gradients, their_gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0, msg=name)


def test_trls_advantages_are_ours() -> None:
    """Its normalisation, computed on its own two lines: (r - mean) / (std + 1e-4)."""
    from trl.trainer.utils import nanstd

    rewards = torch.rand(4, 8)
    theirs = (rewards - rewards.mean(1, keepdim=True)) / (nanstd(rewards, dim=1).unsqueeze(1) + 1e-4)
    torch.testing.assert_close(advantages(rewards), theirs, atol=2e-3, rtol=0)


def test_leave_one_out_advantages_are_trls() -> None:
    """The lines of its RLOOTrainer: reward minus the mean of its siblings."""
    from trl.trainer import rloo_trainer

    lines = inspect.getsource(rloo_trainer)
    assert "baselines = (grouped_sum - grouped_rewards) / (scorable_counts - 1)" in lines  # what is repeated here
    rewards = torch.rand(4, 8)
    theirs = rewards - (rewards.sum(1, keepdim=True) - rewards) / (8 - 1)
    torch.testing.assert_close(leave_one_out(rewards), theirs, atol=1e-5, rtol=0)
    assert (leave_one_out(torch.full((2, 7), 0.1)) == 0).all()


def test_whitened_advantages_are_verls() -> None:
    """verl/trainer/ppo/core_algos.py, REINFORCE++ with gamma 1: returns of every token, whitened over those of the batch."""
    rewards, lengths = torch.rand(2, 3), torch.randint(2, LIMIT + 1, (2, 3))
    mask = (torch.arange(LIMIT) < lengths.view(-1, 1)).double()
    given = torch.zeros(6, LIMIT, dtype=torch.float64)
    given[torch.arange(6), lengths.flatten() - 1] = rewards.flatten().double()  # the reward comes with the last token
    returns = given.flip(1).cumsum(1).flip(1)
    mean = (returns * mask).sum() / mask.sum()
    variance = ((returns - mean) ** 2 * mask).sum() / mask.sum() * (mask.sum() / (mask.sum() - 1))
    theirs = (returns - mean) * torch.rsqrt(variance + 1e-8)
    ours = whitened(rewards, lengths).view(-1, 1).expand(-1, LIMIT)
    torch.testing.assert_close(ours * mask, theirs * mask, atol=1e-5, rtol=0)
    assert (whitened(torch.full((2, 3), 0.1), lengths) == 0).all()


def test_leave_one_out_on_the_policys_own_rollouts_has_the_gradient_of_trls_rloo(trainer_of: Any) -> None:
    """RLOO's loss, -A x ratio of the whole sequence: at ratio 1 its gradient is that of our sum over tokens."""
    torch.manual_seed(5)
    network = trainer_of({"loss_type": "bnpo"}).model
    prompt, completion = torch.randint(2, 32, (6, 4)), torch.randint(2, 32, (6, LIMIT))
    ids, mask = torch.cat([prompt, completion], 1), (torch.arange(LIMIT) < torch.randint(3, LIMIT + 1, (6, 1))).float()
    advantage = leave_one_out(torch.rand(2, 3)).flatten()
    weights = [one for one in network.parameters() if one.requires_grad]
    seen = torch.cat([torch.ones_like(prompt), mask.long()], 1)
    inputs = {"input_ids": ids, "attention_mask": seen, "logits_to_keep": LIMIT + 1}
    policy = logprobs.forward(network, inputs, completion)[0]
    ratio = ((policy - policy.detach()) * mask).sum(1).exp()
    theirs = torch.autograd.grad(-(ratio * advantage).mean(), weights, retain_graph=True)
    values = token_losses(policy, policy.detach(), advantage, mask, Objective(kl_coef=0.0))
    ours = aggregate(values, mask, "constant", divisor(mask.sum(1).int().tolist(), "constant", LIMIT)) * LIMIT
    for one, other in zip(torch.autograd.grad(ours, weights), theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
