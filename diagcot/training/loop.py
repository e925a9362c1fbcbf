"""The optimisation loop of a stage: batches in order, checkpoints, figures, validation, and a clean stop."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from diagcot.jobs.context import Context
from diagcot.training import checkpoint, log
from diagcot.training import engine as ranks
from diagcot.training.batch import Order, Prefetch
from diagcot.training.settings import DeepSpeedSettings

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
    prepare: Callable[[Any, list[Batch]], list[Batch]] | None = None
    """Engine and this rank's batches of a step -> the batches to train on, where a loss spans all of them; a collective."""


def steps_of(settings: DeepSpeedSettings, order: Order) -> int:
    """Optimiser steps of the whole stage."""
    return settings.steps or max(1, math.ceil((settings.epochs or 0) * order.steps_per_epoch))


def train(
    ctx: Context, engine: Any, settings: DeepSpeedSettings, task: Task, validate_every: int | None
) -> dict[str, Any] | None:
    """Train from the newest checkpoint to the last step; returns the final figures, None if asked to stop before.

    Every step adds a line to `train.jsonl` in the workspace: loss, learning rate, gradient norm, tokens/s, seconds that
    the ranks waited for data. A collective.
    """
    steps = steps_of(settings, task.order)
    rows = ctx.workspace / "train.jsonl"
    first, final = 0, {"loss": math.nan}
    if (folder := checkpoint.latest(ctx.workspace)) is not None:
        first, final = checkpoint.load(engine, folder)
        ctx.event("resumed", step=first)
    if ctx.rank == 0:
        log.rewind(rows, first)
    where = ranks.device(ctx)
    engine.train()
    with Prefetch(task.passes, first, steps) as coming:
        for step in range(first, steps):
            began = time.monotonic()
            batches = next(coming)
            waited = time.monotonic() - began
            batches = task.prepare(engine, batches) if task.prepare else batches
            loss, tokens = torch.zeros((), device=where), 0.0
            for batch in batches:
                tokens += int(batch["attention_mask"].sum())
                batch = {name: value.to(where, non_blocking=True) for name, value in batch.items()}
                one = task.objective(engine, batch)
                engine.backward(one)
                engine.step()
                loss += one.detach()
            stop, total, tokens, waited = ranks.agree([ctx.stopping(), float(loss) / len(batches), tokens, waited])
            seconds = time.monotonic() - began
            final = {"loss": total / ctx.world_size}
            if not math.isfinite(final["loss"]):
                raise FloatingPointError(
                    f"the loss is {final['loss']} at step {step + 1}; lower the learning rate or clip harder"
                )
            figures = {
                **final,
                "lr": engine.get_lr()[0],
                "grad_norm": float(engine.get_global_grad_norm() or 0.0),
                "tokens_per_s": round(tokens / seconds),
                "data_wait_s": round(waited / ctx.world_size, 4),
                "seconds": round(seconds, 4),
            }
            done = step + 1
            ended = done == steps
            if ended or (validate_every and done % validate_every == 0):
                engine.eval()
                with torch.no_grad():
                    final |= {f"validation_{name}": value for name, value in task.validate(engine).items()}
                engine.train()
            if ctx.rank == 0:
                log.append(rows, {"step": done, "epoch": done / task.order.steps_per_epoch, **figures, **final})
            ctx.progress(done, steps, loss=round(final["loss"], 4), tokens_per_s=figures["tokens_per_s"])
            if ended or stop or done % settings.save_every == 0:
                checkpoint.save(engine, ctx.workspace, done, final, settings.keep)
            if stop and not ended:
                ctx.event("stopped", step=done)
                return None
    return {"steps": steps, **final}
