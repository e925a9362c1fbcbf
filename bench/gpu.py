"""`make bench-gpu`: tokens/s and utilisation of training steps on this machine's GPUs, with random weights.

Steps of supervised fine-tuning (language model and merger), alignment (contrastive and language-model loss on the merger)
and GRPO (scoring by policy and reference, then one update; rollouts apart), on all GPUs by ZeRO-2. Nothing is read from
disk: an image of 752 visual tokens and 175 tokens of text are drawn at random. SHAPE=3b, 7b, or tiny, which runs on CPUs
too and shows that the code path is whole; its figures mean nothing.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.figures import Figures

ROOT = Path(__file__).resolve().parents[1]
STEPS = ("sft", "align", "grpo")
TEXT, LEARNED = 175, 160  # tokens of a sample, and those of its answer (method.md 3.1)
WARM, TIMED = 2, 5  # optimiser steps; on a CPU one is enough to see that they work
SHARED = {"rope_type": "default", "rope_theta": 1e6}
SEEN = {"fullatt_block_indexes": [7, 15, 23, 31], "window_size": 112}
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "text_config": {
            "vocab_size": 800, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "rope_parameters": SHARED | {"mrope_section": [4, 6, 6]},
        },
        "vision_config": {
            "depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4, "out_hidden_size": 128,
            "fullatt_block_indexes": [1], "window_size": 112,
        },
        "tie_word_embeddings": False,
    },
    "3b": {  # of Qwen2.5-VL-3B-Instruct and -7B-Instruct
        "text_config": {
            "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
            "num_attention_heads": 16, "num_key_value_heads": 2, "rope_parameters": SHARED | {"mrope_section": [16, 24, 24]},
        },
        "vision_config": {
            "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 2048, **SEEN,
        },
        "tie_word_embeddings": True,
    },
    "7b": {
        "text_config": {
            "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
            "num_attention_heads": 28, "num_key_value_heads": 4, "rope_parameters": SHARED | {"mrope_section": [16, 24, 24]},
        },
        "vision_config": {
            "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584, **SEEN,
        },
        "tie_word_embeddings": False,
    },
}  # fmt: skip
GRIDS = {"tiny": (8, 8), "3b": (46, 66), "7b": (46, 66)}  # patches of an image: 16, and 759 visual tokens


def main(argv: list[str]) -> int:
    """Run the benchmark. Returns the exit code."""
    options = argparse.ArgumentParser(prog="bench.gpu", description=__doc__)
    options.add_argument("steps", nargs="*", choices=[*STEPS, []], help="default: all")
    options.add_argument("--shape", choices=list(SHAPES), default="7b")
    options.add_argument("--rank", type=Path, help=argparse.SUPPRESS)
    args = options.parse_args(argv)
    if args.rank:
        return _rank(args.rank, args.shape, args.steps or STEPS)
    import torch

    count = torch.cuda.device_count()
    if not count and args.shape != "tiny":
        print(f"no GPU here: {args.shape} is measured on one; SHAPE=tiny runs on a CPU", file=sys.stderr)
        return 1
    device = torch.cuda.get_device_name(0) if count else f"CPU, load {os.getloadavg()[0]:.1f}"
    world = count or 1
    print(
        f"{world} × {device}; torch {torch.__version__}, DeepSpeed {version('deepspeed')}, transformers"
        f" {version('transformers')}; {args.shape}, ZeRO-2, {'bf16' if count else 'fp32'}, gradient checkpointing;"
        f" samples of {_visual(args.shape)} visual and {TEXT} text tokens; {TIMED} steps after {WARM}, on a CPU one",
        flush=True,
    )
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(world)}
        free.close()
        command = [sys.executable, "-m", "bench.gpu", "--shape", args.shape, "--rank", folder, *args.steps]
        ranks = [
            subprocess.Popen(command, cwd=ROOT, env=os.environ | shared | {"RANK": str(k), "LOCAL_RANK": str(k)})
            for k in range(world)
        ]
        if any([rank.wait() for rank in ranks]):
            print("a rank failed; what it said stands above", file=sys.stderr)
            return 1
        rows = json.loads((Path(folder) / "rows.json").read_text())
    from diagcot.training.cost import peak_flops

    figures, peak = Figures("gpu"), peak_flops(device)
    for step, row in rows.items():
        figures.add(f"{args.shape}_{step}_tokens_per_s", row["tokens_per_s"], "1/s")
        figures.add(f"{args.shape}_{step}_tflops_per_gpu", row["flops"] / world / 1e12, "TFLOP/s")
        if peak:
            figures.add(f"{args.shape}_{step}_mfu", row["flops"] / world / peak, "")
        figures.add(f"{args.shape}_{step}_memory", row["memory_gb"], "GB", baseline=row["estimated_gb"])
        print(
            f"{step}: {row['tokens_per_s']:.0f} tokens/s, {row['memory_gb']:.1f} GB, estimated {row['estimated_gb']:.1f}"
        )
    print(figures.line())
    return 0


def _visual(shape: str) -> int:
    height, width = GRIDS[shape]
    return height * width // 4


def _rank(folder: Path, name: str, steps: list[str] | tuple[str, ...]) -> int:
    """One rank: every step in turn, on a model of its own."""
    import torch

    from diagcot.jobs.testing import context
    from diagcot.training.distributed import process_group

    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    card = torch.cuda.is_available()
    ctx = context(
        folder / f"rank{rank}", rank=rank, world_size=world, local_rank=rank, local_world_size=world,
        gpus=int(card), cpus=max(1, (os.cpu_count() or 1) // world),
    )  # fmt: skip
    process_group.connect(ctx)
    try:
        rows = {step: _measure(step, name, ctx) for step in steps}
    finally:
        process_group.disconnect()
    if rank == 0:
        (folder / "rows.json").write_text(json.dumps(rows))
    return 0


def _measure(step: str, name: str, ctx: Any) -> dict[str, float]:  # noqa: C901, PLR0915  one measurement, start to end
    import gc

    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from diagcot.training import cost
    from diagcot.training.config.settings import DeepSpeedSettings, FreezePolicy
    from diagcot.training.distributed import engine, process_group
    from diagcot.training.losses import contrastive
    from diagcot.training.models import attention, freeze

    where, card = process_group.device(ctx), ctx.gpus > 0
    warm, timed = (WARM, TIMED) if card else (0, 1)
    precision = "bf16" if card else "fp32"
    trainable = ("merger",) if step == "align" else ("language_model", "merger")
    micro, passes = (1, 4) if step == "grpo" else (2, 2)
    size = cost.parse_config({"model_type": "qwen2_5_vl", **SHAPES[name]})
    policy = step == "grpo"
    load = cost.Workload(
        _visual(name), TEXT, LEARNED, 1, scoring_passes=2 * policy, reference=policy,
    )  # fmt: skip

    def settings(offload: bool) -> DeepSpeedSettings:
        batch = {"micro_batch": micro, "global_batch": micro * passes * ctx.world_size}
        return DeepSpeedSettings(
            stage=2, steps=warm + timed, precision=precision, gradient_checkpointing=True, offload=offload, **batch
        )

    made = cost.estimate(size, trainable, None, settings(False), load, ctx.world_size)
    room = torch.cuda.get_device_properties(where).total_memory if card else float("inf")
    expected = made.memory
    deepspeed = settings(offload=expected > room)
    if deepspeed.offload:
        lower = cost.estimate(size, trainable, None, deepspeed, load, ctx.world_size).memory
        expected -= made.memory - lower
        if ctx.rank == 0:
            print(f"{step}: the optimiser is offloaded, {made.memory / 1e9:.0f} GB do not fit", flush=True)

    ids = {"image_token_id": 10, "video_token_id": 11, "vision_start_token_id": 12, "vision_end_token_id": 13}
    config = AutoConfig.for_model("qwen2_5_vl", **SHAPES[name], **ids)
    torch.manual_seed(0)

    def built() -> Any:
        with torch.device(where):
            network = AutoModelForImageTextToText.from_config(
                config,
                dtype=torch.bfloat16 if card else torch.float32,
                attn_implementation=attention.implementation(precision),
            )
        network.config.use_cache = False
        return network.train()

    network = built()
    freeze.freeze(network, FreezePolicy(trainable=trainable))
    trained = engine.initialize(
        contrastive.Aligner(network, 0.07) if step == "align" else network, deepspeed, ctx, warm + timed
    )
    reference = engine.frozen(built(), engine.divided(deepspeed, ctx), ctx) if step == "grpo" else None
    batch = _batch(name, micro, where)
    objective = _objective(step, name, batch, trained, reference)
    if card:
        torch.cuda.reset_peak_memory_stats(where)
    began = 0.0
    for index in range(warm + timed):
        if index == warm:
            _synchronise(where)
            began = time.perf_counter()
        for _ in range(passes):
            loss = objective() / passes
            trained.backward(loss)
        trained.step()
        if not torch.isfinite(loss.detach()):
            raise FloatingPointError(f"{step}: the loss is {float(loss)}")
    _synchronise(where)
    seconds = (time.perf_counter() - began) / timed
    samples = deepspeed.global_batch
    row = {
        "tokens_per_s": samples * load.tokens / seconds,
        "flops": samples * cost.sequence_flops(size, set(trainable), made.trained, load) / seconds,
        "memory_gb": torch.cuda.max_memory_allocated(where) / 1e9 if card else 0.0,
        "estimated_gb": expected / 1e9,
    }
    del trained, network, reference, objective
    gc.collect()
    if card:
        torch.cuda.empty_cache()
    return row


def _batch(name: str, micro: int, where: Any) -> dict[str, Any]:
    import torch

    from diagcot.training.data import positions
    from diagcot.training.losses import language

    height, width = GRIDS[name]
    visual = _visual(name)
    text = torch.randint(20, SHAPES[name]["text_config"]["vocab_size"], (micro, TEXT - 2))
    head = torch.tensor([12, *[10] * visual, 13]).expand(micro, -1)
    ids = torch.cat([head, text], 1)
    labels = torch.full_like(ids, -100)
    labels[:, -LEARNED:] = ids[:, -LEARNED:]
    place = positions.multimodal(ids[0] == 10, torch.tensor([[1, height, width]]), 2)
    made = {
        "input_ids": ids,
        "position_ids": place[:, None].expand(-1, micro, -1),
        "labels": labels,
        "sequence_lengths": torch.full((micro,), ids.shape[1]),
        "image_counts": torch.ones(micro, dtype=torch.long),
        "pixel_values": torch.randn(micro * height * width, 3 * 2 * 14 * 14),
        "image_grid_thw": torch.tensor([[1, height, width]] * micro),
    }
    return language.on_device(made, where)


def _objective(step: str, name: str, batch: dict[str, Any], trained: Any, reference: Any) -> Any:
    """The loss of one pass, made of the stage's own parts."""
    import torch

    from diagcot.training.losses import contrastive, language, logprobs
    from diagcot.training.rl import objective

    inputs, micro = language.model_inputs(batch), len(batch["input_ids"])

    def sft() -> Any:
        return language.summed_loss(trained, inputs, batch["labels"]) / (micro * LEARNED)

    width = SHAPES[name]["text_config"]["hidden_size"]
    reports = torch.nn.functional.normalize(torch.randn(micro, width), dim=-1).to(inputs["input_ids"].device)
    keys = torch.arange(micro, device=reports.device)[:, None] + 1000 * int(os.environ["RANK"])

    def align() -> Any:
        images, scale, loss = trained(batch, "images and language")
        gradients = contrastive.cached_gradients(images, reports, keys, scale)
        return loss / (micro * LEARNED) + gradients.surrogate(images, scale, 1)

    targets = batch["labels"][:, -LEARNED:].to(reports.device)
    advantage = torch.linspace(-1, 1, micro + 1, device=targets.device)[1:]

    def scores(network: Any) -> Any:
        return logprobs.forward(network, inputs, targets)[0]

    def grpo() -> Any:
        with torch.no_grad():
            old, base = scores(trained), scores(reference)
        mask = torch.ones_like(old)
        losses = objective.token_losses(
            scores(trained), old, advantage, mask, objective.Objective(kl_coef=0.01), reference=base
        )
        return objective.aggregate(losses, mask, "token", mask.numel())

    return {"sft": sft, "align": align, "grpo": grpo}[step]


def _synchronise(where: Any) -> None:
    import torch

    if where.type == "cuda":
        torch.cuda.synchronize(where)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
