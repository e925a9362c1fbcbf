"""Writes what a training stage publishes: a Hugging Face directory with its counts, and the log."""

import shutil
from pathlib import Path
from typing import Any

import torch

from diagcot.jobs import Context, Result
from diagcot.jobs.state.files import remove
from diagcot.training.distributed import engine
from diagcot.training.distributed.engine import Engine
from diagcot.training.models import card, lora, model
from diagcot.training.models.inputs import write_counts


def write(ctx: Context, trained: Engine, processor: Any, counts: dict[str, Any], merge_adapter: bool = False) -> Result:
    """Write the weights of an engine, the processor, `diagcot.json` and the log to staged places. A collective.

    Of a model with an adapter that is the adapter, with the modules that train beside it, or with `merge_adapter` the whole
    model.
    """
    if torch.cuda.is_available():
        counts = {**counts, "gpu_memory_gb": torch.cuda.max_memory_allocated() / 1e9}  # rank 0 stands for all
    network = trained.module
    adapter = lora.has_adapter(network) and not merge_adapter  # its base stays where it is
    if lora.has_adapter(network) and merge_adapter:
        state = lora.merged(network)
    else:
        state = engine.trained_weights(trained) if adapter else engine.weights(trained)
    if ctx.rank:
        return Result(counts=counts)
    staged = _staged_model(ctx)
    state = state or {}
    if hasattr(network, "vlm"):  # alignment also trains a temperature, which is not a part of the model
        network = network.vlm
        state = {name.removeprefix("vlm."): value for name, value in state.items() if name.startswith("vlm.")}
    if adapter:
        lora.save(network, state, staged)
        processor.save_pretrained(staged)
        return _published(ctx, staged, counts)
    if lora.has_adapter(network):
        network = network.get_base_model()
    model.save(network, processor, staged, state)
    return _published(ctx, staged, counts)


def copy(ctx: Context, directory: Path, counts: dict[str, Any]) -> Result:
    """Publish a model directory of the workspace, with `diagcot.json` and the log. Only rank 0 writes."""
    if ctx.rank:
        return Result(counts=counts)
    staged = _staged_model(ctx)
    shutil.copytree(directory, staged)
    return _published(ctx, staged, counts)


def _staged_model(ctx: Context) -> Path:
    staged = ctx.staged(ctx.output / "model")
    remove(staged, ctx.output)
    return staged


def _published(ctx: Context, staged: Path, counts: dict[str, Any]) -> Result:
    write_counts(ctx, staged, counts)
    card.write(ctx, staged, counts)
    log = ctx.output / "train.jsonl"
    staged_log = ctx.staged(log)
    shutil.copyfile(ctx.workspace / "train.jsonl", staged_log)
    return Result(outputs={ctx.output / "model": staged, log: staged_log}, counts=counts)
