"""The losses without the logits of a whole pass: values and gradients are those of the plain formula, memory is bounded,
and no pass makes the host wait for the device."""

import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from diagcot.jobs.testing import context
from diagcot.training import cost
from diagcot.training.config.grpo_settings import GrpoSettings
from diagcot.training.losses import language, logprobs
from diagcot.training.rl import objective, policy
from diagcot.training.rl.micro_batches import MicroBatch
from diagcot.training.rl.rollout import Rollout

LEAST, MOST = 3, 700  # tokens of a pass: less than a chunk, and several chunks with a rest


class Live(TorchDispatchMode):
    """Follows the bytes of all tensors that are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.peak = 0

    def _add(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor) and (storage := value.untyped_storage())._cdata not in self.sizes:
            self.sizes[storage._cdata] = storage.nbytes()
            self.peak = max(self.peak, sum(self.sizes.values()))
            weakref.finalize(storage, self.sizes.pop, storage._cdata, None)
        return value

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return tree_map(self._add, function(*args, **(kwargs or {})))


class Model(torch.nn.Module):
    """An embedding and an output head, as much of a language model as a loss sees."""

    def __init__(self, vocabulary: int, hidden: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = torch.nn.Embedding(vocabulary, hidden, device=device, dtype=dtype)
        self.head = torch.nn.Linear(hidden, vocabulary, bias=False, device=device, dtype=dtype)

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.head

    def forward(self, input_ids: torch.Tensor, logits_to_keep: int = 0) -> Any:
        from transformers.modeling_outputs import CausalLMOutput

        return CausalLMOutput(logits=self.head(self.body(input_ids)[:, -logits_to_keep:]))


@pytest.mark.parametrize("tokens", [LEAST, cost.CHUNK_TOKENS, MOST])
@pytest.mark.parametrize("trained", [("body", "head"), ("body",), ("head",)], ids="+".join)
@pytest.mark.parametrize(("temperature", "banned"), [(1.0, ()), (0.9, (8, 10))], ids=["loss", "rollouts"])
def test_values_and_gradients_are_those_of_the_plain_formula(
    tokens: int, trained: tuple[str, ...], temperature: float, banned: tuple[int, ...]
) -> None:
    model = Model(31, 7)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.split(".")[0] in trained)
    ids = torch.randint(31, (2, tokens + 4))
    targets, slopes = torch.randint(8, (2, tokens)), torch.randn(2, tokens) / tokens
    inputs = {"input_ids": ids, "logits_to_keep": tokens + 1}

    logits = model(**inputs).logits[:, :-1]
    raw = torch.log_softmax(logits, -1)
    allowed = logits.index_fill(-1, torch.tensor(banned, dtype=torch.long), float("-inf"))
    sampled = torch.log_softmax(allowed / temperature, -1)
    expected = [values.gather(-1, targets[..., None])[..., 0] for values in (sampled, raw)]
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad((expected[0] * slopes).sum(), weights)

    found = logprobs.forward(model, inputs, targets, temperature, torch.tensor(banned, dtype=torch.long))
    assert not found[1].requires_grad
    for ours, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-6, rtol=1e-6)
    own = torch.autograd.grad((found[0] * slopes).sum(), weights)
    for ours, plain in zip(own, gradients, strict=True):
        assert float(plain.abs().max()) > 1e-3
        torch.testing.assert_close(ours, plain, atol=1e-6, rtol=1e-6)


def test_the_supervised_loss_is_the_cross_entropy_of_the_learned_tokens() -> None:
    model, ids = Model(31, 7), torch.randint(31, (3, MOST))
    labels = ids.masked_fill(torch.rand(ids.shape) < 0.5, -100)
    labels[:, :300] = -100
    batch = {"input_ids": ids, "labels": labels, "sequence_lengths": torch.tensor([MOST] * 3)}
    inputs = language.model_inputs(batch)
    assert inputs["logits_to_keep"] < MOST
    plain = torch.nn.functional.cross_entropy(
        model(ids).logits[:, :-1].reshape(-1, 31), labels[:, 1:].reshape(-1), reduction="sum"
    )
    found = language.summed_loss(model, inputs, labels)
    assert found.item() == pytest.approx(plain.item(), rel=1e-6)
    weights = list(model.parameters())
    for ours, expected in zip(torch.autograd.grad(found, weights), torch.autograd.grad(plain, weights), strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-6)


def test_a_supervised_pass_reads_no_value_from_the_device() -> None:
    """On the meta device, whose tensors have no values to read."""
    model, ids, meta = Model(31, 7, "meta"), torch.randint(31, (2, 9)), torch.device("meta")
    labels = ids.masked_fill(torch.arange(9) < 4, -100)
    batch = language.on_device({"input_ids": ids, "labels": labels, "sequence_lengths": torch.tensor([9, 9])}, meta)
    inputs = language.model_inputs(batch)
    assert inputs["logits_to_keep"] == 6 and inputs["input_ids"].device == meta
    language.summed_loss(model, inputs, batch["labels"]).backward()
    assert model.head.weight.grad is not None


def test_nothing_learned_gives_no_loss_and_no_gradient() -> None:
    model, ids = Model(31, 7), torch.randint(31, (1, 5))
    labels = torch.full_like(ids, -100)
    batch = {"input_ids": ids, "labels": labels, "sequence_lengths": torch.tensor([5])}
    loss = language.summed_loss(model, language.model_inputs(batch), labels)
    assert loss.item() == 0
    assert not any(gradient.any() for gradient in torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("tokens", [1024, 4096])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
@pytest.mark.parametrize("trained", [False, True], ids=["frozen", "trained"])
def test_the_peak_is_that_of_a_chunk(tokens: int, dtype: torch.dtype, trained: bool) -> None:
    """Forward and backward pass on tensors without data: at most 4 bytes for each token and word of the vocabulary."""
    vocabulary, hidden = 5000, 4
    model = Model(vocabulary, hidden, "meta", dtype)
    model.head.requires_grad_(trained)
    ids = torch.zeros(1, tokens, dtype=torch.long, device="meta")
    banned = torch.zeros(3, dtype=torch.long, device="meta")
    live = Live()
    with live:
        sampled, _ = logprobs.forward(model, {"input_ids": ids}, ids[:, 1:], 0.9, banned)
        sampled.sum().backward()
    assert live.peak / (tokens * vocabulary) <= 4
    chunk = cost.CHUNK_TOKENS * vocabulary * cost.LOGIT_BYTES
    rest = tokens * hidden * 4 * dtype.itemsize + 40 * tokens + 4 * vocabulary * hidden * 8
    assert chunk <= live.peak <= chunk + rest


class Reads(TorchDispatchMode):
    """Counts operations whose result the host must wait for."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "unique_dim", "_unique2")

    def __init__(self) -> None:
        super().__init__()
        self.counted = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counted += function.overloadpacket.__name__ in self.WAITING
        return function(*args, **(kwargs or {}))


class Engine(torch.nn.Module):
    """As much of DeepSpeed's engine as an update calls."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, **inputs: Any) -> Any:
        return self.module(**inputs)

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def step(self) -> None:
        pass

    def get_global_grad_norm(self) -> float:
        return 0.0


def test_the_figures_of_an_update_leave_the_device_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many passes an update has; and so does the gap of the passes that are scored before the first of several."""
    copies: list[int] = []

    def summed(values: list[float]) -> list[float]:
        copies.append(len(values))
        return values

    monkeypatch.setattr(policy.process_group, "sum_values", summed)
    made: Any = object.__new__(policy.Policy)
    made.settings = GrpoSettings(importance_cap=2.0, temperature=1.0, top_p=1.0, mask_cut=True)
    made.objective = objective.Objective(kl_coef=0.1, importance_cap=2.0)
    made.ctx, made.reference, made.engine = context(tmp_path), Model(31, 7), Engine(Model(31, 7))
    made._banned = torch.tensor([3])
    ids, ones = torch.randint(4, 11, (2, 6)), torch.ones(2, 5)
    pair = MicroBatch({"input_ids": ids}, ids[:, 1:], ones, torch.ones(2), torch.tensor([False, True]), -ones)
    rollouts = [Rollout(0, "", (1,) * 5, (-1.0,) * 5, False, (), 9)] * 2
    with Reads() as reads:
        for passes in (1, 4):
            batches = [replace(pair) for _ in range(passes)]
            made.score_before_updates(batches)
            figures = made.update(batches, rollouts * passes, float("inf"))
            assert figures["kl"] == 0 and figures["entropy"] > 0
    assert reads.counted == 0 and copies == [2, 6] * 2
