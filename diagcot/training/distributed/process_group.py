"""The process group of a stage: NCCL on GPUs, gloo on a CPU, and small exchanges between the ranks' hosts."""

import contextlib
import gc
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from diagcot.jobs.execution.context import Context
from diagcot.training.distributed import library_setup

library_setup.configure()

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

from diagcot.training.distributed import rendezvous  # noqa: E402


@dataclass
class _Groups:
    hosts: Any = None  # a gloo group of all ranks, None before `connect`


_groups = _Groups()


def device(ctx: Context) -> torch.device:
    """This rank's device."""
    if not (torch.cuda.is_available() and ctx.gpus):
        return torch.device("cpu")
    # Slurm may show a rank all GPUs of its node, or only its own.
    return torch.device("cuda", ctx.local_rank if torch.cuda.device_count() > ctx.local_rank else 0)


def connect(ctx: Context) -> None:
    """Initialise torch.distributed and DeepSpeed's layer over it, once a process. A collective.

    Raises RuntimeError if the ranks do not meet, see `rendezvous.connect_store`.
    """
    if dist.is_initialized():
        return
    own_device = device(ctx)
    torch.manual_seed(ctx.seed)  # equal on all ranks: the initial adapter must not depend on the process
    os.environ |= {
        "RANK": str(ctx.rank),
        "WORLD_SIZE": str(ctx.world_size),
        "LOCAL_RANK": str(ctx.local_rank),
        "LOCAL_SIZE": str(ctx.local_world_size),
    }
    if own_device.type == "cuda":
        torch.cuda.set_device(own_device)
    else:
        os.environ["DS_ACCELERATOR"] = "cpu"
        torch.set_num_threads(max(1, ctx.cpus))
    backend = "nccl" if own_device.type == "cuda" else "gloo"
    store = rendezvous.connect_store(ctx)
    dist.init_process_group(backend, rank=ctx.rank, world_size=ctx.world_size, timeout=rendezvous.TIMEOUT, store=store)
    # Exchanges between hosts use gloo and never wait for the GPU.
    _groups.hosts = dist.group.WORLD if backend == "gloo" else dist.new_group(backend="gloo")
    import deepspeed

    # Its shared-memory all-reduce serves inference only, and building it takes half a minute of compilation.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)


def disconnect() -> None:
    """Leave the group, so that the process ends without a warning."""
    if dist.is_initialized():
        import deepspeed

        gc.collect()
        deepspeed.comm.destroy_process_group()
        deepspeed.comm.comm.cdb = None  # lets the same process connect again
        _groups.hosts = None


@contextlib.contextmanager
def connected(ctx: Context) -> Iterator[None]:
    """The group of all ranks for the length of the block."""
    connect(ctx)
    try:
        yield
    finally:
        disconnect()


def sum_values(values: list[float]) -> list[float]:
    """Elementwise sums over all ranks, on all ranks. A collective."""
    return [float(value) for value in sum_array(np.array(values))]


def sum_array(table: np.ndarray) -> np.ndarray:
    """Elementwise sum of every rank's array (any shape, equal on all ranks), float64. A collective, if there is a group."""
    total = torch.from_numpy(table.astype(np.float64))
    if dist.is_initialized():
        dist.all_reduce(total, group=_groups.hosts)
    return total.numpy()  # type: ignore[no-any-return]


def broadcast(value: Any) -> Any:
    """Rank 0's value on all ranks. A collective."""
    values = [value]
    dist.broadcast_object_list(values, src=0, group=_groups.hosts)
    return values[0]


def all_gather(value: Any) -> list[Any]:
    """Every rank's value in rank order, on all ranks. A collective."""
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value, group=_groups.hosts)
    return values


def barrier() -> None:
    """Wait until all ranks are here. A collective."""
    dist.barrier(group=_groups.hosts)
