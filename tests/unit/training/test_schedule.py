"""The learning rate of every step: warm-up, then the schedule down to 0, also after a resumption."""

import math

import pytest

from diagcot.training.config.settings import DeepSpeedSettings


def expected(schedule: str, warmup: int, steps: int, step: int) -> float:
    """The formula by hand, as a fraction of the highest rate."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[schedule]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize(("warmup", "steps"), [(0, 7), (1, 7), (2, 10), (280, 400), (5, 5)])
def test_the_rate_of_every_step(schedule: str, warmup: int, steps: int) -> None:
    import torch

    from diagcot.training.distributed import engine

    settings = DeepSpeedSettings.model_validate(
        {"steps": steps, "warmup_steps": warmup, "schedule": schedule, "learning_rate": 3e-4}
    )

    def begin() -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))], lr=settings.learning_rate)
        return optimizer, engine.schedule(optimizer, settings, steps)

    optimizer, scheduler = begin()
    rates = []
    for step in range(steps):
        rates.append(optimizer.param_groups[0]["lr"] / settings.learning_rate)
        optimizer.step()
        scheduler.step()
        if step == steps // 2:  # as after a checkpoint: new objects with the state of those before
            states = optimizer.state_dict(), scheduler.state_dict()
            optimizer, scheduler = begin()
            optimizer.load_state_dict(states[0])
            scheduler.load_state_dict(states[1])
    assert rates == pytest.approx([expected(schedule, warmup, steps, step) for step in range(steps)], abs=1e-9)
