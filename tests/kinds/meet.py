"""A kind of several ranks that form a group and add up; one can be late, or die once before."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from diagcot.jobs import Context, Result, Unit
from diagcot.training.distributed import rendezvous


@contextmanager
def prepare(ctx: Context) -> Iterator[None]:
    """Join the process group; rank 1 may be late or die first."""
    if ctx.rank == 1:
        time.sleep(ctx.settings.get("late_s", 0))
        died = ctx.workspace / "died"
        if ctx.settings.get("die") and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    store = rendezvous.connect_store(ctx, ctx.settings["meet_s"])
    dist.init_process_group(
        "gloo", rank=ctx.rank, world_size=ctx.world_size, store=store, timeout=timedelta(seconds=20)
    )
    yield
    dist.destroy_process_group()


def run(unit: Unit, shared: None, ctx: Context) -> Result:
    """Add up the ranks; rank 0 writes the sum."""
    total = torch.tensor([ctx.rank + 1.0])
    dist.all_reduce(total)
    final = ctx.output / f"{unit.key}.txt"
    staged = ctx.staged(final)
    if ctx.rank == 0:
        staged.write_text(f"{total.item()}\n")
    return Result({final: staged} if ctx.rank == 0 else {}, {})
