"""Steps of training: tokens/s, utilisation and memory, the last beside the estimate."""

import os
import time
from collections.abc import Callable
from typing import Any

from bench.gpu.shapes import LEARNED, SHAPES, TEXT, TEXTS, batch, network, visual_tokens

WARM, TIMED = 2, 5  # optimiser steps; on a CPU one is enough to see that they work
STEPS = ("sft", "sft_packed", "sft_logits", "align", "grpo")
"""Padded rows of two samples; the same samples packed; padded, with the logits of a whole pass; the other stages."""


def measure(step: str, shape: str, ctx: Any) -> dict[str, float]:
    """Figures of one step on this rank's device: tokens_per_s and flops of all ranks, GB of the device, the estimate's."""
    import torch

    from diagcot.training import cost
    from diagcot.training.config.settings import FreezePolicy
    from diagcot.training.distributed import engine, process_group
    from diagcot.training.losses import contrastive
    from diagcot.training.models import freeze

    where, card = process_group.device(ctx), ctx.gpus > 0
    warm, timed = (WARM, TIMED) if card else (0, 1)
    trainable = ("merger",) if step == "align" else ("language_model", "merger")
    texts = [[TEXT]] * 4 if step == "grpo" else [[TEXT] * 2] * 2 if step == "align" else _passes(step == "sft_packed")
    size = cost.parse_config({"model_type": "qwen2_5_vl", **SHAPES[shape]})
    deepspeed, expected, trained_count = _settings(step, shape, trainable, texts, warm + timed, where, ctx)
    model = network(shape, where, deepspeed.precision)
    freeze.freeze(model, FreezePolicy(trainable=trainable))
    wrapped = contrastive.Aligner(model, 0.07) if step == "align" else model
    trained = engine.initialize(wrapped, deepspeed, ctx, warm + timed)
    reference = None
    if step == "grpo":
        reference = engine.frozen(network(shape, where, deepspeed.precision), engine.divided(deepspeed, ctx), ctx)
    losses = [
        _objective(step, shape, batch(shape, rows, where, step == "sft_packed"), trained, reference) for rows in texts
    ]
    if card:
        torch.cuda.reset_peak_memory_stats(where)
    began = 0.0
    for index in range(warm + timed):
        if index == warm:
            _synchronise(where)
            began = time.perf_counter()
        for objective in losses:
            loss = objective() / len(losses)
            trained.backward(loss)
        trained.step()
        if not torch.isfinite(loss.detach()):
            raise FloatingPointError(f"{step}: the loss is {float(loss)}")
    _synchronise(where)
    seconds = (time.perf_counter() - began) / timed
    loads = [_load(step, shape, text) for rows in texts for text in rows]
    flops = sum(cost.sequence_flops(size, set(trainable), trained_count, load) for load in loads)
    return {
        "tokens_per_s": ctx.world_size * sum(load.tokens for load in loads) / seconds,
        "tflops_per_gpu": flops / seconds / 1e12,
        "memory_gb": torch.cuda.max_memory_allocated(where) / 1e9 if card else 0.0,
        "estimated_gb": expected / 1e9,
    }


def _passes(packed: bool) -> list[list[int]]:
    """Tokens of text of the samples of each pass: neighbours in length, or all of them."""
    return [list(TEXTS)] if packed else [list(TEXTS[at : at + 2]) for at in range(0, len(TEXTS), 2)]


def _load(step: str, shape: str, text: int) -> Any:
    from diagcot.training import cost

    grpo = step == "grpo"
    learned = text - (TEXT - LEARNED)
    return cost.Workload(visual_tokens(shape), text, learned, 1, scoring_passes=2 * grpo, reference=grpo)


def _settings(
    step: str, shape: str, trainable: Any, texts: list[list[int]], steps: int, where: Any, ctx: Any
) -> tuple[Any, float, int]:
    """DeepSpeed's settings, with the optimiser offloaded where it does not fit; bytes that the estimate says; trained weights."""
    import torch

    from diagcot.training import cost
    from diagcot.training.config.settings import DeepSpeedSettings

    card = ctx.gpus > 0
    size = cost.parse_config({"model_type": "qwen2_5_vl", **SHAPES[shape]})
    widest = max(texts, key=sum)
    load = _load(step, shape, max(widest))
    common = {
        "stage": 2, "steps": steps, "precision": "bf16" if card else "fp32", "gradient_checkpointing": True,
        "micro_batch": len(widest), "global_batch": sum(map(len, texts)) * ctx.world_size,
    }  # fmt: skip
    settings = DeepSpeedSettings.model_validate(common)
    made = cost.estimate(size, trainable, None, settings, load, ctx.world_size)
    room = torch.cuda.get_device_properties(where).total_memory if card else float("inf")
    if made.memory <= room:
        return settings, made.memory, made.trained
    if ctx.rank == 0:
        print(f"{step}: the optimiser is offloaded, {made.memory / 1e9:.0f} GB do not fit", flush=True)
    settings = DeepSpeedSettings.model_validate({**common, "offload": True})
    return settings, cost.estimate(size, trainable, None, settings, load, ctx.world_size).memory, made.trained


def _objective(step: str, shape: str, rows: dict[str, Any], trained: Any, reference: Any) -> Callable[[], Any]:
    """The loss of one pass, made of the stage's own parts."""
    import torch
    from torch.nn import functional

    from diagcot.training.losses import contrastive, language, logprobs
    from diagcot.training.models import attention
    from diagcot.training.rl import objective

    inputs, samples = language.model_inputs(rows), len(rows["sequence_lengths"])
    learned = language.learned_tokens(rows)
    device = inputs["input_ids"].device

    def sft() -> Any:
        return language.summed_loss(trained, inputs, rows["labels"]) / learned

    def sft_logits() -> Any:
        whole = {name: value for name, value in inputs.items() if name != "logits_to_keep"}
        logits = trained(**attention.placed(trained.module, whole)).logits[:, :-1].float()
        return functional.cross_entropy(logits.flatten(0, 1), rows["labels"][:, 1:].flatten().to(device))

    width = SHAPES[shape]["text_config"]["hidden_size"]
    reports = functional.normalize(torch.randn(samples, width), dim=-1).to(device)
    keys = torch.arange(samples, device=device)[:, None] + 1000 * int(os.environ["RANK"])

    def align() -> Any:
        images, scale, loss = trained(rows, "images and language")
        gradients = contrastive.cached_gradients(images, reports, keys, scale)
        return loss / learned + gradients.surrogate(images, scale, 1)

    targets = rows["labels"][:, -LEARNED:].to(device).clamp(min=0)
    advantage = torch.linspace(-1, 1, samples + 1, device=device)[1:]

    def scores(model: Any) -> Any:
        return logprobs.forward(model, inputs, targets)[0]

    def grpo() -> Any:
        with torch.no_grad():
            old, base = scores(trained), scores(reference)
        mask = torch.ones_like(old)
        losses = objective.token_losses(
            scores(trained), old, advantage, mask, objective.Objective(kl_coef=0.01), reference=base
        )
        return objective.aggregate(losses, mask, "token", mask.numel())

    return {"sft": sft, "sft_packed": sft, "sft_logits": sft_logits, "align": align, "grpo": grpo}[step]


def _synchronise(where: Any) -> None:
    import torch

    if where.type == "cuda":
        torch.cuda.synchronize(where)
