"""DeepSpeed over the ranks of a stage: NCCL on GPUs, gloo on a CPU, one rank or many."""

import gc
import math
import os
from collections.abc import Callable
from typing import Any

from diagcot.jobs import Context
from diagcot.training.config.settings import DeepSpeedSettings
from diagcot.training.distributed import library_setup as quiet

quiet.libraries()

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

from diagcot.training.distributed import rendezvous  # noqa: E402

_control: Any = None


def device(ctx: Context) -> torch.device:
    """This rank's device."""
    if not (torch.cuda.is_available() and ctx.gpus):
        return torch.device("cpu")
    # Slurm may show a rank all GPUs of its node or its own alone.
    return torch.device("cuda", ctx.local_rank if torch.cuda.device_count() > ctx.local_rank else 0)


def connect(ctx: Context) -> None:
    """Initialise torch.distributed and DeepSpeed's layer over it, once a process.

    The address comes from MASTER_ADDR and MASTER_PORT, which the worker sets; a single rank needs neither.
    """
    global _control
    if dist.is_initialized():
        return
    where = device(ctx)
    torch.manual_seed(ctx.seed)  # the same on all ranks: an adapter's random start must not depend on the process
    os.environ |= {
        "RANK": str(ctx.rank),
        "WORLD_SIZE": str(ctx.world_size),
        "LOCAL_RANK": str(ctx.local_rank),
        "LOCAL_SIZE": str(ctx.local_world_size),
    }
    if where.type == "cuda":
        torch.cuda.set_device(where)
    else:
        os.environ["DS_ACCELERATOR"] = "cpu"
        torch.set_num_threads(max(1, ctx.cpus))
    backend = "nccl" if where.type == "cuda" else "gloo"
    store = rendezvous.meet(ctx)
    dist.init_process_group(backend, rank=ctx.rank, world_size=ctx.world_size, timeout=rendezvous.TIMEOUT, store=store)
    # Small agreements between the ranks' hosts go over gloo and never wait for the GPU.
    _control = dist.group.WORLD if backend == "gloo" else dist.new_group(backend="gloo")
    import deepspeed

    # Its shared-memory all-reduce serves inference only, and building it takes half a minute of compilation.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)


def disconnect() -> None:
    """Leave the group, so that the process ends without a warning."""
    global _control
    if dist.is_initialized():
        import deepspeed

        gc.collect()
        deepspeed.comm.destroy_process_group()
        deepspeed.comm.comm.cdb = None  # lets the same process connect again
        _control = None


def agree(values: list[float]) -> list[float]:
    """Sums over all ranks, on the hosts."""
    return [float(value) for value in add(np.array(values))]


def add(table: np.ndarray) -> np.ndarray:
    """Elementwise sum of every rank's array, on the hosts."""
    summed = torch.from_numpy(table.astype(np.float64))
    dist.all_reduce(summed, group=_control)
    return summed.numpy()


def from_first(value: Any) -> Any:
    """Rank 0's value on all ranks."""
    box = [value]
    dist.broadcast_object_list(box, src=0, group=_control)
    return box[0]


def from_all(value: Any) -> list[Any]:
    """Every rank's value, by rank, on all ranks."""
    found = [None] * dist.get_world_size()
    dist.all_gather_object(found, value, group=_control)
    return found


def wait() -> None:
    """Until all ranks are here."""
    dist.barrier(group=_control)


def config(settings: DeepSpeedSettings, world_size: int) -> dict[str, Any]:
    """DeepSpeed's configuration of a run."""
    zero: dict[str, Any] = {"stage": settings.stage, "overlap_comm": torch.cuda.is_available()}
    if settings.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if settings.stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
        if settings.offload:
            zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    return {
        "train_micro_batch_size_per_gpu": settings.micro_batch,
        "gradient_accumulation_steps": settings.accumulation(world_size),
        "train_batch_size": settings.global_batch,
        "gradient_clipping": settings.clip,
        "bf16": {"enabled": settings.precision == "bf16"},
        "zero_optimization": zero,
        # torch's own AdamW: DeepSpeed's needs a compiler on the node.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
    }


def zero3(settings: DeepSpeedSettings, ctx: Context) -> dict[str, Any] | None:
    """DeepSpeed's configuration where the model must be read in parts."""
    return config(settings, ctx.world_size) if settings.stage == 3 else None


def rate(settings: DeepSpeedSettings, steps: int) -> Callable[[int], float]:
    """Learning rate of step k as a fraction of the highest: linear warm-up, then the schedule down to 0 at `steps`."""

    def fraction(step: int) -> float:
        if step < settings.warmup_steps:
            return (step + 1) / settings.warmup_steps
        if settings.schedule == "constant":
            return 1.0
        done = min(1.0, (step - settings.warmup_steps) / max(1, steps - settings.warmup_steps))
        return 1 - done if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))

    return fraction


def initialize(model: torch.nn.Module, settings: DeepSpeedSettings, ctx: Context, steps: int) -> Any:
    """A DeepSpeed engine over the trainable parameters of `model`, for `steps` optimiser steps in all."""
    import deepspeed

    connect(ctx)
    where = device(ctx)
    if settings.gradient_checkpointing:
        inner = getattr(model, "vlm", model)
        inner.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        inner.enable_input_require_grads()
    if settings.stage == 2:
        model.to(where)
    optimizer = torch.optim.AdamW(
        _groups(model, settings.weight_decay),
        lr=settings.learning_rate,
        fused=where.type == "cuda" and not settings.offload,
    )
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        lr_scheduler=lambda made: torch.optim.lr_scheduler.LambdaLR(made, rate(settings, steps)),
        config=config(settings, ctx.world_size),
    )
    return engine


def _groups(model: torch.nn.Module, decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices only: norms and biases have no scale to shrink."""
    free = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in free if len(getattr(p, "ds_shape", p.shape)) > 1]
    rest = [p for p in free if len(getattr(p, "ds_shape", p.shape)) <= 1]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def weights(engine: Any) -> dict[str, torch.Tensor] | None:
    """All weights on rank 0's host, None elsewhere. A collective: every rank must call it."""
    if engine.zero_optimization_stage() == 3:
        state = engine._zero3_consolidated_16bit_state_dict()
        return {n: v.cpu() for n, v in state.items()} if dist.get_rank() == 0 else None
    if dist.get_rank():
        return None
    return {name: value.detach().cpu() for name, value in engine.module.state_dict().items()}
