"""The optimisation loop of a stage: batches in order, checkpoints, figures, validation, and a clean stop."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from diagcot.jobs import Context
from diagcot.training.checkpoint import checkpoint
from diagcot.training.config.settings import DeepSpeedSettings
from diagcot.training.cost.flops import WHOLE
from diagcot.training.data.batch import Order, Prefetch
from diagcot.training.distributed import process_group
from diagcot.training.losses import language
from diagcot.training.monitoring import log
from diagcot.training.monitoring.step_timer import Clock

Batch = dict[str, torch.Tensor]


@dataclass
class Task:
    """What a stage trains: forward passes of a step, their loss and the held-out figures."""

    order: Order
    passes: Callable[[int], list[Batch]]
    """Step -> this rank's batches; called in a thread."""
    objective: Callable[[Any, Batch], torch.Tensor]
    """Engine and batch -> loss, scaled so that its mean over all passes and ranks is the step's loss."""
    validate: Callable[[Any], dict[str, float]]
    """Engine -> held-out figures; a collective."""
    runs: Sequence[str] = WHOLE
    """Components that a forward pass runs through."""
    prepare: Callable[[Any, list[Batch]], list[Batch]] | None = None
    """Engine and this rank's batches of a step -> the batches to train on, where a loss spans all of them; a collective."""


def steps_of(settings: DeepSpeedSettings, order: Order) -> int:
    """Optimiser steps of the whole stage."""
    return settings.steps or max(1, math.ceil((settings.epochs or 0) * order.steps_per_epoch))


def train(
    ctx: Context, engine: Any, settings: DeepSpeedSettings, task: Task, validate_every: int | None
) -> dict[str, Any] | None:
    """Train from the newest checkpoint to the last step; returns the final figures, None if asked to stop before.

    Every step adds a line to `train.jsonl` in the workspace: loss, lr, grad_norm, tokens_per_s, mfu (where the GPU's peak
    is known), memory_gb of rank 0, data_wait (share of the step's time that the ranks waited for their batches, 0..1),
    seconds. A collective.
    """
    steps = steps_of(settings, task.order)
    with checkpoint.Checkpoints(ctx, engine, settings.keep, settings.async_save) as checkpoints:
        first, final = checkpoints.resume() or (0, {"loss": math.nan})
        with (
            log.Log(ctx, first, steps, settings.wandb) as lines,
            Prefetch(task.passes, first, steps) as coming,
        ):
            engine.train()
            meter = Clock(ctx, engine, settings, task.runs)
            for step in range(first, steps):
                done = step + 1
                figures, stop = _step(ctx, engine, task, coming, meter)
                if not math.isfinite(figures["loss"]):
                    raise FloatingPointError(
                        f"the loss is {figures['loss']} at step {done}; lower the learning rate or clip harder"
                    )
                final = {"loss": figures["loss"]}
                ended = done == steps
                if ended or (validate_every and done % validate_every == 0):
                    engine.eval()
                    with torch.no_grad():
                        final |= {f"validation_{name}": value for name, value in task.validate(engine).items()}
                    engine.train()
                lines.step(done, {"epoch": done / task.order.steps_per_epoch, **figures, **final})
                if ended or stop or done % settings.save_every == 0:
                    checkpoints.save(done, final)
                if stop and not ended:
                    ctx.event("stopped", step=done)
                    return None
    return {"steps": steps, **final}


def _step(
    ctx: Context,
    engine: Any,
    task: Task,
    coming: Prefetch,
    meter: "Clock",
) -> tuple[dict[str, float], bool]:
    """One optimiser step: its figures, and whether a rank was asked to stop. A collective."""
    meter.start()
    batches = next(coming)
    meter.have_data()
    for batch in batches:
        meter.count(language.inputs_of(batch))
    batches = task.prepare(engine, batches) if task.prepare else batches
    loss = torch.zeros((), device=meter.device)
    for batch in batches:
        one = task.objective(engine, {name: value.to(meter.device, non_blocking=True) for name, value in batch.items()})
        engine.backward(one)
        engine.step()
        loss += one.detach()
    stop, total, *sums = process_group.sum_values([ctx.stopping(), float(loss) / len(batches), *meter.sums()])
    return {
        "loss": total / ctx.world_size,
        "lr": engine.get_lr()[0],
        "grad_norm": float(engine.get_global_grad_norm() or 0.0),
        **meter.figures(sums),
    }, bool(stop)
