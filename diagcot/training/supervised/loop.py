"""The optimisation loop of a supervised stage: batches in order, checkpoints, figures, validation, and a clean stop."""

import math
from typing import Any

import torch

from diagcot.jobs import Context
from diagcot.training.checkpoint.checkpoint import Checkpoints
from diagcot.training.checkpoint.origin import Origin
from diagcot.training.config.settings import DeepSpeedSettings
from diagcot.training.data.collator import Batch
from diagcot.training.data.order import BatchOrder
from diagcot.training.data.prefetch import Prefetch
from diagcot.training.distributed import process_group
from diagcot.training.distributed.engine import Engine
from diagcot.training.losses import language
from diagcot.training.monitoring.log import TrainingLog
from diagcot.training.monitoring.step_timer import StepTimer
from diagcot.training.supervised.objective import TrainingObjective


def total_steps(settings: DeepSpeedSettings, order: BatchOrder) -> int:
    """Optimiser steps of the whole stage."""
    return settings.steps or max(1, math.ceil((settings.epochs or 0) * order.steps_per_epoch))


def train(
    ctx: Context,
    engine: Engine,
    settings: DeepSpeedSettings,
    objective: TrainingObjective,
    origin: Origin,
    validate_every: int | None,
) -> dict[str, Any] | None:
    """Train from the newest checkpoint to the last step; returns the final figures, None if stopped before. A collective.

    origin: what the stage is made of; only its own checkpoints are continued. Every step adds a line to `train.jsonl` in the
    workspace: loss, lr, grad_norm, tokens_per_s, mfu (where the GPU's peak is known), memory_gb of rank 0, data_wait (share
    of the step that the ranks waited for their batches, 0 to 1), seconds. Raises FloatingPointError if the loss is not finite.
    """
    steps = total_steps(settings, objective.order)
    with Checkpoints(ctx, engine, origin, settings.keep, settings.async_save) as checkpoints:
        first, final = checkpoints.resume() or (0, {"loss": math.nan})
        with (
            TrainingLog(ctx, first, steps, settings.trackers) as log,
            Prefetch(objective.batches, first, steps) as prefetch,
        ):
            engine.train()
            timer = StepTimer(ctx, engine, settings, objective.components, objective.tower)
            for step in range(first, steps):
                done = step + 1
                figures, stop = _step(ctx, engine, objective, prefetch, timer)
                if not math.isfinite(figures["loss"]):
                    raise FloatingPointError(
                        f"the loss is {figures['loss']} at step {done}; lower the learning rate or the gradient clipping"
                    )
                final = {"loss": figures["loss"]}
                last = done == steps
                if last or (validate_every and done % validate_every == 0):
                    final |= _validate(engine, objective)
                log.step(done, {"epoch": done / objective.order.steps_per_epoch, **figures, **final})
                if last or stop or done % settings.save_every == 0:
                    checkpoints.save(done, final)
                if stop and not last:
                    ctx.event("stopped", step=done)
                    return None
    return {"steps": steps, **final}


def _validate(engine: Engine, objective: TrainingObjective) -> dict[str, float]:
    engine.eval()
    with torch.no_grad():
        figures = {f"validation_{name}": value for name, value in objective.validate(engine).items()}
    engine.train()
    return figures


def _step(
    ctx: Context, engine: Engine, objective: TrainingObjective, prefetch: Prefetch[list[Batch]], timer: StepTimer
) -> tuple[dict[str, float], bool]:
    """One optimiser step: its figures, and whether a rank was asked to stop. A collective."""
    timer.start()
    batches = next(prefetch)
    timer.data_ready()
    for batch in batches:
        timer.count({**batch, **language.model_inputs(batch)})
    batches = objective.prepare(engine, batches)
    total_loss = torch.zeros((), device=timer.device)
    for batch in batches:
        loss = objective.loss(engine, language.on_device(batch, timer.device)) / len(batches)
        engine.backward(loss)
        total_loss += loss.detach()
    engine.step()
    stop, loss_sum, *sums = process_group.sum_values([ctx.stopping(), float(total_loss), *timer.sums()])
    return {
        "loss": loss_sum / ctx.world_size,
        "lr": engine.get_lr()[0],
        "grad_norm": float(engine.get_global_grad_norm() or 0.0),
        **timer.figures(sums),
    }, bool(stop)
