"""TRL's own loop calls our rewards."""

from types import SimpleNamespace

import pytest

from diagcot.rewards import registry
from diagcot.rewards import trl as for_trl
from diagcot.rewards.score import Reference
from tests.unit.rewards.test_exchange import OUTPUTS, TRUTH


def test_trl_itself_calls_our_rewards():
    """TRL's own loop over reward functions, on a trainer of which there is only what that loop reads."""
    import torch
    from trl.trainer.grpo_trainer import GRPOTrainer

    logged: dict[str, float] = {}
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(device=torch.device("cpu"), gather=lambda value: value, is_main_process=True),
        args=SimpleNamespace(report_to=[]),
        state=SimpleNamespace(global_step=100, max_steps=100),
        reward_funcs=[for_trl.classification],
        reward_func_names=[for_trl.classification.__name__],
        reward_processing_classes=[None],
        environments=None,
        _has_async_funcs=False,
        _log_completion_extra=None,
        _log_metric=logged.__setitem__,
    )
    inputs = [{"prompt": "p", "answer": TRUTH} for _ in OUTPUTS]
    got = GRPOTrainer._calculate_rewards(trainer, inputs, ["p"] * 3, OUTPUTS, [[1]] * 3)
    late = registry.reward("classification", "curriculum")(OUTPUTS, [Reference(TRUTH)] * 3, 1.0)
    assert got[:, 0].tolist() == pytest.approx([score["overall"] for score in late])
    assert logged["classification/labels"] == pytest.approx(sum(score["labels"] for score in late) / 3)
