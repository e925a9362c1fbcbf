"""The process group of a stage and the device of a rank: NCCL on GPUs, gloo on a CPU, exchanges between the ranks' hosts."""

import contextlib
import gc
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from diagcot.jobs import SiteError
from diagcot.jobs.environment import drivers
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
    before: ClassVar[dict[str, str | None]] = {}  # the variables of this rank as `connect` found them


_groups = _Groups()


def device(ctx: Context) -> torch.device:
    """This rank's device: the CPU for a job without GPUs.

    A site may show a rank all GPUs of the job on its node, or only the rank's own (`--gpus-per-task`, `--gpu-bind`), by
    number, by uuid or as MIG instances. Raises SiteError with the reason if the job has GPUs that cannot be used: training
    on the CPU instead would take weeks without a word.
    """
    if not ctx.gpus:
        return torch.device("cpu")
    if torch.version.cuda is None and torch.version.hip is None:
        if drivers.loaded():
            raise SiteError(
                "this job has GPUs, but its environment is for CPUs: run `make env LOCK=gpu`, and submit again; or set"
                " `gpus: 0` for this size in the cluster file"
            )
        return torch.device("cpu")  # simulated GPUs, as the tests' Slurm has
    _show_own_mig(ctx)
    if not torch.cuda.is_available():
        raise SiteError(f"this job has GPUs, but torch cannot use them on {os.uname().nodename}: {_why_unusable()}")
    visible, wanted = torch.cuda.device_count(), ctx.gpus * ctx.local_world_size
    if visible >= wanted:
        return torch.device("cuda", ctx.local_rank * ctx.gpus)
    if visible == ctx.gpus:
        return torch.device("cuda", 0)
    raise SiteError(
        f"rank {ctx.rank} sees {visible} GPUs on {os.uname().nodename}, and can tell its own neither among the"
        f" {wanted} of the node nor as its {ctx.gpus}: let Slurm bind none (`--gpu-bind=none`) or one task's each"
        " (`--gpu-bind=single:1`) in the cluster file, and see CUDA_VISIBLE_DEVICES in a job"
    )


def moved(tensor: torch.Tensor, target: torch.device) -> torch.Tensor:
    """The tensor on `target`, for which the host does not wait: a GPU copies without it from pinned memory alone."""
    if target.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(target, non_blocking=True)


def _show_own_mig(ctx: Context) -> None:
    """Show this process its own MIG instance: CUDA uses only the first that is named. Before CUDA is initialised."""
    names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if len(names) > 1 and names[0].startswith("MIG-") and len(names) >= ctx.gpus * ctx.local_world_size:
        first = ctx.local_rank * ctx.gpus
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names[first : first + ctx.gpus])


def _why_unusable() -> str:
    """Why torch sees no GPU, in one sentence, and what to do."""
    try:
        torch.cuda.init()
        reason = "it sees none"
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
    driver, cuda = drivers.loaded(), torch.version.cuda or ""
    if cuda and driver and int(driver.partition(".")[0]) < drivers.least(cuda):
        return (
            f"its driver {driver} is too old for CUDA {cuda}, which needs {drivers.least(cuda)} or newer ({reason}); use"
            " nodes with a newer driver"
        )
    return (
        f"{reason} (driver {driver or 'not loaded'}, CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')});"
        " run `nvidia-smi` in a job: does the job's cgroup give it the devices?"
    )


def rank_variables(ctx: Context, own_device: torch.device) -> dict[str, str]:
    """The variables by which torch.distributed and DeepSpeed know this rank."""
    return {
        "RANK": str(ctx.rank),
        "WORLD_SIZE": str(ctx.world_size),
        # DeepSpeed takes it for the number of the device (runtime/engine.py: _set_distributed_vars).
        "LOCAL_RANK": str(ctx.local_rank if own_device.index is None else own_device.index),
        "LOCAL_SIZE": str(ctx.local_world_size),
    }


def connect(ctx: Context) -> None:
    """Initialise torch.distributed and DeepSpeed's layer over it, once a process. A collective.

    Raises RuntimeError if the ranks do not meet, see `rendezvous.connect_store`.
    """
    if dist.is_initialized():
        return
    own_device = device(ctx)
    torch.manual_seed(ctx.seed)  # equal on all ranks: the initial adapter must not depend on the process
    variables = rank_variables(ctx, own_device)
    _groups.before.update({name: os.environ.get(name) for name in variables})
    os.environ |= variables
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
    """Leave the group, so that the process ends without a warning, or can be a rank of another group."""
    while _groups.before:
        name, value = _groups.before.popitem()
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
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
