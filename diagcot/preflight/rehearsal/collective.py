"""Whether all ranks of a job meet and can add up numbers: torch.distributed over NCCL on GPUs, over gloo elsewhere."""

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from diagcot.jobs import Context, UserError
from diagcot.preflight.finding import Finding, bad, good, note
from diagcot.preflight.rehearsal.stage import RehearsedStage

DEADLINE_S = 40
ROUNDS = 20
LARGE = 4 << 20  # numbers of 4 bytes: 16 MiB
SKEW_S = 5
REMEDY = (
    "can the nodes reach each other? Name the network in setup: export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0"
)


def check(stage: RehearsedStage, ctx: Context, deadline_s: float = DEADLINE_S) -> Iterator[Finding]:
    """An all-reduce over all ranks within `deadline_s`, its latency and rate, and the clocks of the ranks."""
    import torch
    import torch.distributed as dist

    from diagcot.training.distributed import process_group, rendezvous

    try:
        where = process_group.device(ctx)
    except UserError as error:
        yield bad("collective", str(error), "training would stop there too")
        return
    on_gpu = where.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(where)
    backend = "nccl" if on_gpu else "gloo"
    began = time.monotonic()
    try:
        limit = timedelta(seconds=deadline_s)
        store = rendezvous.connect_store(ctx, deadline_s)  # as the training's ranks do
        store.set_timeout(limit)
        dist.init_process_group(backend, rank=ctx.rank, world_size=ctx.world_size, timeout=limit, store=store)
        total = torch.ones(1, device=where)
        dist.all_reduce(total)
        met = time.monotonic() - began
        if int(total.item()) != ctx.world_size:
            yield bad("collective", f"{ctx.world_size} ranks add up to {total.item():g}: the network corrupts sums")
            return
        small, large = _seconds(dist, total, ROUNDS), _seconds(dist, torch.ones(LARGE, device=where), 2)
        clocks = torch.zeros(ctx.world_size, dtype=torch.float64, device=where)
        clocks[ctx.rank] = time.time()  # all ranks have just come out of the same all-reduce
        dist.all_reduce(clocks)
        skew = float(clocks.max() - clocks.min())
    except (RuntimeError, ValueError) as error:
        message = str(error).splitlines()[0][:200]
        yield bad(
            "collective", f"the {ctx.world_size} ranks did not connect within {deadline_s:.0f} s: {message}", REMEDY
        )
        return
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    if skew > SKEW_S:
        yield note("clock", f"the clocks of the nodes differ by {skew:.0f} s", "ask the administrators")
    if ctx.rank == 0:  # the figures of one rank stand for all
        rate = 4 * LARGE / large / 1e9
        text = f"{ctx.world_size} ranks connected in {met:.1f} s; all-reduce {small * 1e3:.1f} ms, 16 MiB at {rate:.1f} GB/s"
        yield good("collective", f"{text} ({backend})")


def _seconds(dist: Any, numbers: Any, rounds: int) -> float:
    """Mean time of an all-reduce of `numbers`; the first one, which sets up connections, is not counted."""
    dist.all_reduce(numbers)
    began = time.monotonic()
    for _ in range(rounds):
        dist.all_reduce(numbers)
        numbers.div_(dist.get_world_size())
        numbers.sum().item()  # waits for a GPU
    return (time.monotonic() - began) / rounds
