"""Checks of the node alone: ranks, interpreter, GPUs, limits, temporary files, shared memory, Slurm's commands, imports."""

import importlib
import os
import resource
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from diagcot.jobs import Cluster, Context, UserError
from diagcot.jobs.execution import place as private
from diagcot.jobs.slurm import commands as slurm
from diagcot.preflight import checks
from diagcot.preflight.finding import Finding, bad, good, note
from diagcot.preflight.rehearsal.stage import RehearsedStage

OPEN_FILES = 4096  # a server with its clients, or Ray's processes, hold some thousands
SHARED_MEMORY_GB = 1  # vLLM's and NCCL's buffers between processes take some hundred MB
SLOW_IMPORT_S = 60
# What a server imports, since vLLM's own package imports nothing until it is used; the others are whole.
MODULES = {"deepspeed": "deepspeed", "vllm": "vllm.engine.arg_utils", "ray": "ray"}
MOST_MEMORY = 0.9  # of a GPU: vLLM's default gpu_memory_utilization


def ranks(stage: RehearsedStage, ctx: Context) -> Iterator[Finding]:
    """Whether the job has the processes and nodes that the size asks for, and knows where they meet."""
    if (ctx.world_size, ctx.nodes) != (stage.ranks, stage.nodes) and "SLURM_JOB_ID" in os.environ:
        yield bad(
            "ranks",
            f"{ctx.world_size} ranks on {ctx.nodes} nodes, the size asks for {stage.ranks} on {stage.nodes}",
            "do `setup` or `slurm: extra` in the cluster file change tasks or nodes?",
        )
        return
    if stage.nodes > 1:
        host = os.environ.get("MASTER_ADDR", "")
        try:
            socket.getaddrinfo(host, None)
        except OSError as error:
            yield bad("ranks", f"the first node {host!r} has no address here: {error}", "ask the administrators")
            return
    yield good("ranks", f"{ctx.world_size} on {ctx.nodes} node{'s' * (ctx.nodes > 1)}")


def python(stage: RehearsedStage, ctx: Context) -> Iterator[Finding]:
    """Whether the job runs the interpreter and the environment that it was submitted from."""
    if stage.python and Path(sys.executable) != Path(stage.python):
        remedy = "does a line of `setup` activate another environment? The suite does that itself"
        yield bad("environment", f"runs {sys.executable}, not {stage.python}", remedy)
        return
    if checks.lock_stamp() != stage.lock:
        yield bad(
            "environment",
            f"{sys.prefix} is a different environment here and on the submitting host",
            "put the project on storage that all nodes share",
        )
        return
    yield good("environment", f"{sys.prefix}, Python {sys.version.split()[0]}")


def imports(stage: RehearsedStage, ctx: Context) -> Iterator[Finding]:
    """Import what the stage imports, and report the seconds that it takes."""
    modules = [module for need, module in MODULES.items() if need in stage.needs]
    took = []
    for name in [*modules, *filter(None, [stage.kind.partition(":")[0]])]:
        began = time.monotonic()
        try:
            importlib.import_module(name)
        except Exception as error:  # a broken library may raise anything
            message = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            yield bad("imports", f"{name} cannot be imported: {message}", "`make env` again; is `setup` right for it?")
            continue
        took.append((name, time.monotonic() - began))
    summary = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in took if seconds >= 1) or "under a second"
    if sum(seconds for _, seconds in took) > SLOW_IMPORT_S:
        yield note("imports", summary, "every task waits this long: put .venv on a faster file system")
    elif took:
        yield good("imports", summary)


def gpus(stage: RehearsedStage, ctx: Context) -> Iterator[Finding]:
    """GPUs asked for against those that CUDA_VISIBLE_DEVICES names, and, where torch can, against those it can use."""
    requested = ctx.gpus * ctx.local_world_size
    if not requested:
        yield good("GPUs", "none requested")
        return
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    # Slurm shows a rank all GPUs of its node, or its own alone.
    if len(named) not in (requested, ctx.gpus):
        yield bad(
            "GPUs",
            f"requested {requested} per node, CUDA_VISIBLE_DEVICES names {len(named)}",
            "compare gpus and the partition with `sinfo -o '%P %G'`",
        )
        return
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        text = f"{len(named)} named by CUDA_VISIBLE_DEVICES, none tested: torch is built for CPUs here"
        yield note("GPUs", text, "`make env LOCK=gpu`, unless these GPUs are simulated")
        return
    yield from _usable(len(named), ctx)


def _usable(wanted: int, ctx: Context) -> Iterator[Finding]:
    """Test the GPUs of this rank only: the memory that other ranks use would look like that of other jobs."""
    import torch

    seen = torch.cuda.device_count()
    if seen != wanted:
        yield bad("GPUs", f"{wanted} given, torch sees {seen}", "does the driver fit this torch? See `nvidia-smi`")
        return
    first = ctx.local_rank * ctx.gpus if seen > ctx.gpus else 0
    for index in range(first, first + ctx.gpus):
        try:
            torch.ones(1, device=f"cuda:{index}").add_(1).item()
            free, total = torch.cuda.mem_get_info(index)
        except RuntimeError as error:
            yield bad("GPUs", f"GPU {index} cannot compute: {str(error).splitlines()[0]}", "ask the administrators")
            return
        if free < MOST_MEMORY * total:
            text = f"GPU {index}: {free / 1e9:.0f} of {total / 1e9:.0f} GB are free before we begin"
            yield note("GPUs", text, "another process uses it: are GPUs assigned to one job each?")
            return
    yield good("GPUs", f"{seen} × {torch.cuda.get_device_name(first)} a node, each computes")


def limits(stage: RehearsedStage, ctx: Context) -> Iterator[Finding]:
    """Limits of the process (ulimit) that a job inherits from Slurm or from the shell that submitted it."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    size, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if size >= 0:
        text = f"files of at most {size / 1e9:.3g} GB (ulimit -f): logs, shards and weights may need more"
        yield note("limits", text, "`ulimit -f unlimited` as a line of setup")
    if 0 <= files < OPEN_FILES:
        yield note("limits", f"only {files} open files (ulimit -n)", f"`ulimit -n {OPEN_FILES}` as a line of setup")
    elif stage.nodes > 1 and Path("/sys/class/infiniband").exists() and locked >= 0:
        text = f"{locked >> 20} MB of locked memory (ulimit -l), InfiniBand needs it unlimited"
        yield note("limits", text, "ask the administrators (PropagateResourceLimits, LimitMEMLOCK of slurmd)")
    else:
        yield good("limits", f"{files if files >= 0 else 'any number of'} open files")


def scratch(stage: RehearsedStage, ctx: Context) -> Iterator[Finding]:
    """The folder of temporary files on this node, and the one for copies of shards."""
    run_dir = ctx.stage_dir.parent
    yield from checks.place(Cluster.read(run_dir).scratch if (run_dir / "cluster.yaml").exists() else "")
    if stage.shards_copied_to and (why := private.not_ours(base := private.expanded(stage.shards_copied_to))):
        text = f"{base}: {why}; shards would be read from the shared storage"
        yield note("scratch", text, "correct `scratch` of the cluster file, or leave `local_shards` out")


def shared_memory(stage: RehearsedStage, ctx: Context, place: Path = Path("/dev/shm")) -> Iterator[Finding]:
    """Whether shared memory is writable and large enough for vLLM and NCCL."""
    if not os.access(place, os.W_OK):
        yield bad("memory", f"{place} is not writable", "ask the administrators: NCCL and vLLM need it")
        return
    free = shutil.disk_usage(place).free / 1e9
    if free < SHARED_MEMORY_GB:
        yield note("memory", f"{free:.1f} GB free in {place}", "vLLM and NCCL may fail with `Bus error`: enlarge it")
    else:
        yield good("memory", f"{free:.0f} GB free in {place}")


def java(stage: RehearsedStage, ctx: Context) -> Iterator[Finding]:
    """Whether Java runs on this node."""
    yield from checks.java()


def commands(stage: RehearsedStage, ctx: Context) -> Iterator[Finding]:
    """Slurm's commands inside the job: a worker requeues itself, a finaliser submits."""
    wanted = ["scontrol"] + (["sbatch", "squeue", "sacct"] if "submit" in stage.needs else [])
    missing = [name for name in wanted if shutil.which(name) is None]
    if missing == ["scontrol"] and _in_container(ctx.stage_dir.parent):
        text = "no scontrol in the container: a task cannot requeue itself at its time limit"
        yield note("Slurm", text, "nothing needs to be done: its finaliser submits it again")
        return
    if missing:
        why = "finalisers resubmit tasks" if len(wanted) > 1 else "a job that is preempted requeues"
        remedy = f"{why}: load your site's Slurm in `setup` of the cluster file"
        yield bad("Slurm", f"{', '.join(missing)}: not on PATH in the job", remedy)
        return
    try:
        slurm.call("scontrol", "show", "job", "-o", os.environ["SLURM_JOB_ID"], timeout=30)
    except UserError as error:
        yield bad("Slurm", str(error), "the node cannot reach the controller: is SLURM_CONF set in the job?")
        return
    for options in stage.asks:
        if refusal := refused(options):
            flags = " ".join(f"--{name}={value}" for name, value in options.items()) or "the default partition"
            remedy = "ask the administrators (AllocNodes); until then `make status` shows the `make retry` to type"
            yield bad("Slurm", f"this node may not submit to {flags}: {refusal}", remedy)
            return
    yield good("Slurm", f"{', '.join(wanted)}: available, and the controller answers")


def _in_container(run_dir: Path) -> bool:
    return (run_dir / "cluster.yaml").exists() and Cluster.read(run_dir).container is not None


def refused(options: dict[str, str]) -> str:
    """Why Slurm refuses a job with these options, by `sbatch --test-only`, which submits nothing; empty if it does not."""
    flags = [f"--{name}={value}" for name, value in options.items()]
    try:
        slurm.call("sbatch", "--test-only", "--time=2", "--mem=100M", *flags, "--wrap=true", timeout=30)
    except slurm.SlurmError as error:
        return str(error).removeprefix("sbatch failed: ")
    return ""
