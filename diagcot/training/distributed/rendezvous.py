"""How the ranks of an array task find each other."""

import os
from datetime import timedelta

import torch.distributed as dist

from diagcot.jobs import Context

DEADLINE_S = 300  # ranks start together, but imports over a network file system may take minutes
TIMEOUT = timedelta(minutes=30)  # of a collective


def connect_store(ctx: Context, deadline_s: float = DEADLINE_S) -> dist.Store:
    """Wait for all ranks and return the store that the process group is built on.

    MASTER_ADDR and MASTER_PORT, which the worker sets, say where rank 0 listens; a single rank needs neither.
    Raises RuntimeError after `deadline_s` seconds, or at once on rank 0 if the port is taken. The next attempt uses
    another port.
    """
    if ctx.world_size == 1:
        return dist.HashStore()
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        store = dist.TCPStore(host, port, ctx.world_size, ctx.rank == 0, timedelta(seconds=deadline_s))
    except RuntimeError as error:
        if "EADDRINUSE" in str(error):
            raise RuntimeError(
                f"rank 0 cannot listen at {host}:{port}: another process has that port; the next attempt uses another"
            ) from error
        raise RuntimeError(
            f"rank {ctx.rank} of {ctx.world_size} waited {deadline_s:.0f} s at {host}:{port}, and not all ranks came: "
            f"look for the rank whose log ends first ({str(error).splitlines()[0]})"
        ) from error
    store.set_timeout(TIMEOUT)
    return store
