"""How the ranks of a task find each other."""

import os
from datetime import timedelta

import torch.distributed as dist

from diagcot.jobs import Context

MEET_S = 300  # all ranks are started at once; what they import may take minutes to come over a network file system
TIMEOUT = timedelta(minutes=30)  # of a collective


def meet(ctx: Context, deadline_s: float = MEET_S) -> dist.Store:
    """The store that the process group is made over, once all ranks are there; MASTER_ADDR and MASTER_PORT say where.

    Raises RuntimeError after `deadline_s`, or at once on rank 0 if the port is taken. The next attempt has another port.
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
            f"look for the one whose log ends first ({str(error).splitlines()[0]})"
        ) from error
    store.set_timeout(TIMEOUT)
    return store
