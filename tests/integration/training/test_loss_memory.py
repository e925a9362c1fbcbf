"""Memory of the losses, measured on tensors without data."""

import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from diagcot.training import cost
from diagcot.training.losses import language
from diagcot.training.rl import objective


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


def test_bytes_of_a_logit_are_those_that_the_losses_keep() -> None:
    """On tensors without data: the peak of forward and backward pass, for each token and word of the vocabulary."""
    tokens = torch.zeros(1, 1000, dtype=torch.long, device="meta")

    def supervised(logits: torch.Tensor) -> torch.Tensor:
        return language.summed_loss(logits, tokens)

    def policy(logits: torch.Tensor) -> torch.Tensor:
        return objective.logprobs(logits[:, :-1], tokens[:, :-1], 0.9, [3])[0].sum()

    for loss, expected in ((supervised, cost.CROSS_ENTROPY_BYTES), (policy, cost.POLICY_BYTES)):
        hidden = torch.zeros(1, 1000, 4, dtype=torch.bfloat16, device="meta", requires_grad=True)
        head = torch.zeros(4, 5000, dtype=torch.bfloat16, device="meta")
        live = Live()
        with live:
            loss(hidden @ head).backward()
        assert live.peak / (1000 * 5000) == pytest.approx(expected, rel=0.01)
