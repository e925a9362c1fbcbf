"""Writes what a training stage made: a Hugging Face directory, its counts and its log."""

import json
import shutil
from typing import Any

import torch

from diagcot.jobs import Context, Result
from diagcot.training.distributed import engine
from diagcot.training.models import model


def write(ctx: Context, trained: Any, processor: Any, counts: dict[str, Any]) -> Result:
    """Write weights, processor, `diagcot.json` and the training log to staged places. A collective."""
    if torch.cuda.is_available():
        counts = {**counts, "gpu_memory_gb": torch.cuda.max_memory_allocated() / 1e9}  # rank 0's stands for all
    state = engine.weights(trained)
    final = ctx.output / "model"
    log = ctx.output / "train.jsonl"
    if ctx.rank:
        return Result(counts=counts)
    staged, staged_log = ctx.staged(final), ctx.staged(log)
    shutil.rmtree(staged, ignore_errors=True)
    network, state = trained.module, state or {}
    if hasattr(network, "vlm"):  # alignment trains the model and a temperature, which is no part of the model
        network = network.vlm
        state = {name.removeprefix("vlm."): value for name, value in state.items() if name.startswith("vlm.")}
    if hasattr(network, "peft_config"):
        from peft import get_peft_model_state_dict

        network.save_pretrained(staged, state_dict=get_peft_model_state_dict(network, state), safe_serialization=True)
        processor.save_pretrained(staged)
    else:
        model.save(network, processor, staged, state)
    (staged / "diagcot.json").write_text(json.dumps({"stage": ctx.stage, "run": ctx.run, **counts}, indent=1))
    shutil.copyfile(ctx.workspace / "train.jsonl", staged_log)
    return Result(outputs={final: staged, log: staged_log}, counts=counts)
