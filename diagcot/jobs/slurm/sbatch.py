"""The text of batch scripts: `#SBATCH` options, the cluster's set-up lines, and the command that does the work."""

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from diagcot.jobs.cluster import Cluster, Size
from diagcot.jobs.environment import code as codes
from diagcot.jobs.environment.python import interpreter
from diagcot.jobs.plans.plan import Plan
from diagcot.jobs.slurm import job_options
from diagcot.jobs.slurm.job_options import JobOptions

Options = dict[str, str | int | bool]
"""Long names of sbatch options and their values; True for an option without a value."""

FOLDER = "slurm"  # of a stage: its scripts, and what their jobs print before the worker opens its own log
ENTRY = "diagcot.jobs.entrypoints"
SIZE = "DIAGCOT_SIZE"  # variable of a task: its resources, which may have changed since the stage was planned
SRUN = "srun --unbuffered --cpu-bind=none --kill-on-bad-exit=1"
_OF_AN_IMAGE = ("/usr", "/usr/local")  # never covered by those of the node
WARNING = "USR2"  # the signal that `diagcot.jobs.execution.worker` takes as a warning


def options(plan: Plan, cluster: Cluster, size: Size, tasks: int = 1) -> Options:
    """The sbatch options of a job of this size; an array if it has more than one of the stage's tasks."""
    name = {
        "job-name": f"{plan.run}.{plan.stage}",
        "comment": cluster.options(size).comment or f"diagcot {plan.run}/{plan.stage}",
    }
    array = {"array": f"0-{tasks - 1}%{min(tasks, size.array_parallelism)}"} if tasks > 1 else {}
    return name | array | request(cluster, size)


def request(cluster: Cluster, size: Size) -> Options:
    """The sbatch options by which a job of this size asks for its resources."""
    site = cluster.options(size)
    given = {
        **job_options.named(site),
        "exclude": size.exclude,
        "nodes": size.nodes,
        "ntasks-per-node": size.tasks_per_node,
        "cpus-per-task": size.cpus,
        **dict(_gpus(size, site)),
        **dict(_memory(size)),
        "time": size.minutes,
        "signal": f"{WARNING}@{min(cluster.warning_seconds, size.minutes * 30)}",
        "requeue" if size.requeue else "no-requeue": True,
        "kill-on-invalid-dep": "yes",
        "dependency": site.dependency,
    }
    return {name: value for name, value in given.items() if value not in (None, "") and value is not False}


def _gpus(size: Size, site: JobOptions) -> Iterator[tuple[str, str | None]]:
    """GPUs as the site wants them to be asked for, and other generic resources; a job without GPUs asks for none."""
    way, gres = site.gpu_request or "gpus-per-node", [size.gres] if size.gres else []
    kind = f"{site.gpu_type}:" if site.gpu_type else ""
    if size.gpus:
        if way == "gres":
            gres.insert(0, f"gpu:{kind}{size.node_gpus}")
        else:
            yield way, f"{kind}{size.gpus if way == 'gpus-per-task' else size.node_gpus}"
        yield "gpu-bind", site.gpu_bind
    yield "gres", ",".join(gres)


def _memory(size: Size) -> Iterator[tuple[str, str]]:
    """Memory in one form alone: the two exclude each other."""
    if size.mem_per_cpu_gb is not None:
        yield "mem-per-cpu", f"{int(size.mem_per_cpu_gb * 1024)}MB"
    elif size.mem_gb is not None:
        yield "mem", f"{int(size.mem_gb * 1024)}MB" if size.mem_gb else "0"


def flags(chosen: Options) -> list[str]:
    """Options as command-line flags."""
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in chosen.items()]


def work(plan: Plan, cluster: Cluster, size: Size, tasks: Sequence[int], code: str = "", **more: str) -> str:
    """The script that runs `tasks` of a stage, one as a plain job, several as an array.

    code: a snapshot of the code other than the plan's. more: further options, with `_` for `-`.
    """
    commands = [_own_size(size), _step(plan, cluster, size, tasks, code)]
    return _text(plan, cluster, _with(options(plan, cluster, size, len(tasks)), more), code, commands)


def finalise(plan: Plan, cluster: Cluster, code: str = "", **more: str) -> str:
    """The script of the stage's finaliser. It submits jobs itself, which is not done from inside a step of srun."""
    chosen = _with(options(plan, cluster, cluster.finaliser(plan.stage)), more)
    return _text(plan, cluster, chosen, code, [entry("finalise", plan.path)])


def by_hand(plan: Plan, cluster: Cluster, tasks: Sequence[int], about: Sequence[str]) -> str:
    """The script that a person submits: as `work`, and its last task ends the stage. about: lines of comment."""
    step = _step(plan, cluster, plan.resources, tasks)
    commands = [_own_size(plan.resources), f"{step} &&", f"    {entry('summarise', plan.path)}"]
    # The launcher's jobs begin in its own folder; a person may call sbatch in any.
    chosen = options(plan, cluster, plan.resources, len(tasks)) | {"chdir": str(Path.cwd())}
    return _text(plan, cluster, chosen, "", commands, about)


def entry(verb: str, stage_dir: Path, *arguments: str, python: str | None = None) -> str:
    """A shell line that runs a verb of `diagcot.jobs.entrypoints`."""
    return shlex.join([python or interpreter(), "-u", "-m", ENTRY, verb, str(stage_dir), *arguments])


def _own_size(size: Size) -> str:
    return f"export {SIZE}={shlex.quote(size.model_dump_json(exclude_defaults=True))}"


def _step(plan: Plan, cluster: Cluster, size: Size, tasks: Sequence[int], code: str = "") -> str:
    """The shell line that runs the work on all ranks, in the cluster's container if it has one."""
    inside = cluster.container
    command = entry("work", plan.path, ranges(tasks), python=inside.python if inside else None)
    if inside is None:
        return f"{SRUN} {command}"
    folders = [*product_folders(plan), Path(code or plan.code)]
    if inside.python is None:  # an environment, and the Python that it was made from unless the image has it
        folders += [Path(interpreter()).parent.parent, Path(sys.base_prefix)]
    mounts = [*(name for name in dict.fromkeys(map(str, folders)) if name not in _OF_AN_IMAGE), *inside.mounts]
    if inside.runtime == "pyxis":
        pairs = ",".join(mount if ":" in mount else f"{mount}:{mount}" for mount in mounts)
        words = [f"--container-image={inside.image}", f"--container-mounts={pairs}", *inside.options]
        return f"{SRUN} {shlex.join(words)} {command}"
    words = ["apptainer", "exec", *(["--nv"] if inside.nvidia and size.gpus else []), *inside.options]
    words += [word for mount in mounts for word in ("--bind", mount)]
    return f"{SRUN} {shlex.join([*words, inside.image])} {command}"


def ranges(tasks: Sequence[int]) -> str:
    """Task numbers in their order, runs of them shortened.

    >>> ranges([0, 1, 2, 5, 7, 8])
    '0-2,5,7-8'
    """
    parts: list[list[int]] = []
    for task in tasks:
        if parts and task == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], task]
        else:
            parts.append([task])
    return ",".join("-".join(map(str, part)) for part in parts)


def product_folders(plan: Plan) -> list[Path]:
    """The folders that the tasks of a run write to: the run's own, and the roots of data and of weights."""
    return [plan.path.parent, plan.shards_root, plan.workspace.parents[2]]


def _with(chosen: Options, more: dict[str, str]) -> Options:
    """`more` wins over what is chosen; a dependency is added to the one of the cluster file."""
    named = {name.replace("_", "-"): value for name, value in more.items() if value}
    if "dependency" in named and "dependency" in chosen:
        named["dependency"] += f",{chosen['dependency']}"
    return chosen | named


def _text(
    plan: Plan, cluster: Cluster, chosen: Options, code: str, commands: Sequence[str], about: Sequence[str] = ()
) -> str:
    snapshot = shlex.quote(code or plan.code)
    log = "%A_%a.log" if "array" in chosen else "%j.log"
    chosen = chosen | {"output": str(plan.path / FOLDER / log), "open-mode": "append"}
    lines = [
        "#!/bin/bash",
        *(f"# {line}" for line in about),
        *(f"#SBATCH {_quoted(flag)}" for flag in flags(chosen)),
        "",
        *_environment(cluster),
        *cluster.setup,
        "umask 077",
        # The user's variables that change Python itself; the others are dropped by `diagcot.jobs.entrypoints`.
        'unset "${!PYTHON@}" LD_PRELOAD',
        # Without the safe path, `python -m` would put the folder of submission before the copy of the code.
        f"export PYTHONSAFEPATH=1 PYTHONPATH={snapshot} {codes.VARIABLE}={snapshot}",
        "",
        *commands,
    ]
    return "\n".join(lines) + "\n"


def _quoted(flag: str) -> str:
    name, sign, value = flag.partition("=")
    return f"{name}{sign}{shlex.quote(value)}" if sign else name


def _environment(cluster: Cluster) -> Iterator[str]:
    """The cluster's variables, unless they are set already; first what makes a step see what the script sees.

    A job that was submitted with --export=NONE starts its steps with an empty environment too. A step must not look for
    its job on the cluster that the submitting shell names.
    """
    yield "export SLURM_EXPORT_ENV=ALL; unset SLURM_CLUSTERS SBATCH_CLUSTERS"
    if cluster.network:
        names = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "TP_SOCKET_IFNAME")
        yield "export " + " ".join(f"{name}={shlex.quote(cluster.network)}" for name in names)
    for name, value in cluster.environment.items():
        yield f"export {name}=${{{name}:-{shlex.quote(os.path.expandvars(value))}}}"
