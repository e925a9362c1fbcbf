"""`make bench-checkpoints`: how long training stands for a checkpoint, compared with DeepSpeed's own saving, on one rank.

The same engine (ZeRO-2, AdamW, float32) is saved three ways in turn, a few times each, with training steps between:
by DeepSpeed's `save_checkpoint` (unsummed, and not flushed to disk), by ours while training waits, by ours behind it.
"""

import contextlib
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.figures import Figures

WIDTH, LAYERS = 1536, 10  # 23.6 million parameters: 14 bytes each make a third of a gigabyte
SAVES, STEPS = 5, 8


def main() -> int:
    """Run the benchmark. Returns the exit code."""
    from diagcot.jobs.testing import context
    from diagcot.training.config.settings import DeepSpeedSettings
    from diagcot.training.distributed import engine, process_group

    root = Path(tempfile.mkdtemp(prefix="bench-checkpoints-", dir=os.environ.get("TMPDIR", "/tmp")))
    ctx = context(root)
    settings = DeepSpeedSettings(steps=1000, micro_batch=8, global_batch=8, precision="fp32", learning_rate=1e-4)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            process_group.connect(ctx)
            import torch

            network = torch.nn.Sequential(*(torch.nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))
            trained = engine.initialize(network, settings, ctx, 1000)
            found = {name: _measure(way(trained, ctx), trained) for name, way in WAYS.items()}
            process_group.disconnect()
    finally:
        shutil.rmtree(root, ignore_errors=True)
    size = sum(p.numel() for p in network.parameters()) / 1e6
    figures = Figures("checkpoints")
    plain = found["DeepSpeed"]
    for name, (stall, step) in found.items():
        print(f"{name:>12}: training stands {stall:.3f} s a checkpoint, a step during it takes {step:.3f} s")
    print(f"{size:.1f} million parameters, float32, AdamW, one rank on {ctx.cpus} CPUs; medians of {SAVES} checkpoints")
    figures.add("stall", found["behind"][0], "s", baseline=plain[0], goal=0.5, of="ratio")
    figures.add("stall_waiting", found["waiting"][0], "s", baseline=plain[0])
    figures.add("step_while_writing", found["behind"][1], "s", baseline=plain[1])
    print(figures.line())
    return 0


def _deepspeed(trained: Any, ctx: Any) -> Callable[[int], None]:
    def save(step: int) -> None:
        trained.save_checkpoint(str(ctx.workspace / "plain"), tag=str(step), save_latest=False)
        shutil.rmtree(ctx.workspace / "plain" / str(step - 1), ignore_errors=True)

    return save


def _ours(async_save: bool) -> Callable[[Any, Any], Callable[[int], None]]:
    def way(trained: Any, ctx: Any) -> Callable[[int], None]:
        from diagcot.training.checkpoint.checkpoint import Checkpoints
        from diagcot.training.checkpoint.origin import Origin
        from diagcot.training.config.settings import DeepSpeedSettings

        made_of = Origin(DeepSpeedSettings(steps=SAVES), ctx.seed, data="", model="", code="")
        checkpoints = Checkpoints(ctx, trained, made_of, keep=1, async_save=async_save)
        return lambda step: checkpoints.save(step, {}) if step <= SAVES else checkpoints.wait()

    return way


WAYS = {"DeepSpeed": _deepspeed, "waiting": _ours(False), "behind": _ours(True)}


def _measure(save: Callable[[int], None], trained: Any) -> tuple[float, float]:
    """Median seconds of a save and of a step after it. Steps go on until a save behind them has had time to end."""
    import torch

    stalls, steps = [], []
    data = torch.randn(8, WIDTH)
    for number in range(1, SAVES + 1):
        began = time.monotonic()
        save(number)
        stalls.append(time.monotonic() - began)
        for _ in range(STEPS):
            began = time.monotonic()
            trained.backward(trained(data).square().mean())
            trained.step()
            steps.append(time.monotonic() - began)
    save(SAVES + 1)
    return statistics.median(stalls), statistics.median(steps)


if __name__ == "__main__":
    sys.exit(main())
