"""How the ranks of an array task find each other."""

import os
from datetime import timedelta

import torch.distributed as dist

from diagcot.jobs import Context

DEADLINE_S = 300  # ranks start together, but imports over a network file system may take minutes
TIMEOUT = timedelta(minutes=30)  # of a collective


def connect_store(ctx: Context, deadline_s: float = DEADLINE_S) -> dist.Store:
    """Wait for all ranks and return the store that the process group is built on.

    MASTER_ADDR and MASTER_PORT, which the worker sets, say where rank 0 listens; a single rank needs neither. Ranks of
    another execution that come to the same port are not counted: each execution has keys of its own.
    Raises RuntimeError after `deadline_s` seconds, or at once on rank 0 if the port is taken. The next attempt uses
    another port.
    """
    if ctx.world_size == 1:
        return dist.HashStore()
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    patience = timedelta(seconds=deadline_s)
    try:
        server = dist.TCPStore(host, port, ctx.world_size, ctx.rank == 0, patience, wait_for_workers=False)
    except RuntimeError as error:
        if "EADDRINUSE" in str(error):
            raise RuntimeError(
                f"rank 0 cannot listen at {host}:{port}: another process has that port; the next attempt uses another"
            ) from error
        raise _absent([0], ctx, f"{host}:{port}", deadline_s) from error
    store = dist.PrefixStore(f"{ctx.run}/{ctx.stage}/{ctx.task}/{ctx.attempt}", server)
    store.set(str(ctx.rank), "")
    try:
        store.wait([str(rank) for rank in range(ctx.world_size)], patience)
    except RuntimeError as error:
        absent = [rank for rank in range(ctx.world_size) if not store.check([str(rank)])]
        raise _absent(absent, ctx, f"{host}:{port}", deadline_s) from error
    store.set_timeout(TIMEOUT)
    return store


def _absent(ranks: list[int], ctx: Context, address: str, deadline_s: float) -> RuntimeError:
    """The same words on every rank that waited: a rehearsal joins equal findings."""
    names = ", ".join(map(str, ranks))
    return RuntimeError(
        f"{'rank' if len(ranks) == 1 else 'ranks'} {names} of {ctx.world_size} did not come to {address} within"
        f" {deadline_s:.0f} s: look at the end of the log of each"
    )
