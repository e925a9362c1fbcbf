"""Weights on disk: a checkpoint that training goes on from, and an adapter that is merged into its base."""

import resource
import time
from pathlib import Path
from typing import Any

from bench.gpu.shapes import TEXT, batch, directory, network


def checkpoint(shape: str, ctx: Any) -> dict[str, float]:
    """Seconds that training waits for a checkpoint, that it takes to write and to load, and how far losses differ after it.

    The merger trains, so that the optimiser of a 7B model fits the disk.
    """
    import json

    from diagcot.training.checkpoint.checkpoint import Checkpoints
    from diagcot.training.checkpoint.origin import Origin
    from diagcot.training.config.settings import DeepSpeedSettings, FreezePolicy
    from diagcot.training.distributed import engine, process_group
    from diagcot.training.losses import language
    from diagcot.training.models import freeze

    where = process_group.device(ctx)
    settings = DeepSpeedSettings(
        steps=8, precision="bf16" if ctx.gpus else "fp32", gradient_checkpointing=True, global_batch=ctx.world_size,
        learning_rate=1e-2,
    )  # fmt: skip
    model = network(shape, where, settings.precision)
    freeze.freeze(model, FreezePolicy(trainable=("merger",)))
    trained = engine.initialize(model, settings, ctx, 8)
    rows = batch(shape, [TEXT], where)
    inputs = language.model_inputs(rows)

    def step() -> float:
        loss = language.summed_loss(trained, inputs, rows["labels"]) / language.learned_tokens(rows)
        trained.backward(loss)
        trained.step()
        return float(loss.detach())

    step()
    with Checkpoints(ctx, trained, Origin(settings, ctx.seed, "", "", ""), 1) as checkpoints:
        checkpoints.save(1, {})
        checkpoints.wait()
        before = [step(), step()]  # of the second one the optimiser's state decides
        began = time.perf_counter()
        if checkpoints.resume() is None:
            raise RuntimeError("the checkpoint was not found again")
        load_s = time.perf_counter() - began
        after = [step(), step()]
    said = [json.loads(line) for line in (ctx.stage_dir / "events.jsonl").read_text().splitlines()]
    written = next(row for row in said if row["event"] == "checkpoint")
    if before[0] == before[1]:
        raise RuntimeError("the step changed nothing, so nothing is shown")
    return {
        "stall_s": written["stall_s"],
        "write_s": written["write_s"],
        "load_s": load_s,
        "loss_difference": max(abs(a - b) for a, b in zip(before, after, strict=True)),
    }


def merge(shape: str, ctx: Any) -> dict[str, float]:
    """Seconds and host memory of merging an adapter of rank 8 into its base, file by file."""
    from diagcot.training.config.settings import LoraSettings
    from diagcot.training.distributed import process_group
    from diagcot.training.models import lora, merging, model

    where, precision = process_group.device(ctx), "bf16" if ctx.gpus else "fp32"
    folder = Path(ctx.workspace)
    base = directory(shape, folder / "base", where, precision)
    adapted = lora.add_adapter(network(shape, where, precision), LoraSettings())
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.02)
    trained = {name: value.cpu() for name, value in adapted.state_dict().items() if "lora_" in name}
    lora.save(adapted, trained, folder / "adapter")
    del adapted
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    parameters = merging.merge(base, folder / "adapter", folder / "merged", model.SHARD_BYTES)
    seconds = time.perf_counter() - began
    size = sum(path.stat().st_size for path in (folder / "merged").glob("*.safetensors"))
    return {
        "seconds": seconds,
        "gb": size / 1e9,
        "parameters": float(parameters),
        "host_memory_gb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 1e9,
    }
