"""The text of batch scripts: `#SBATCH` options, the cluster's set-up lines, and the command that does the work."""

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from diagcot.jobs.cluster import Cluster, Size
from diagcot.jobs.environment import code as codes
from diagcot.jobs.plans.plan import Plan
from diagcot.jobs.state.environments import interpreter

Options = dict[str, str | int | bool]
"""Long names of sbatch options and their values; True for an option without a value."""

FOLDER = "slurm"  # of a stage: its scripts, and what their jobs print before the worker opens its own log
ENTRY = "diagcot.jobs.entrypoints"
SRUN = "srun --unbuffered --cpu-bind=none --kill-on-bad-exit=1"
WARNING = "USR2"  # the signal that `diagcot.jobs.execution.worker` takes as a warning


def options(plan: Plan, cluster: Cluster, size: Size, tasks: int = 1) -> Options:
    """The sbatch options of a job of this size; an array if it has more than one of the stage's tasks."""
    general = cluster.slurm
    given = {
        "job-name": f"{plan.run}.{plan.stage}",
        "comment": f"diagcot {plan.run}/{plan.stage}",
        "partition": size.partition or general.partition,
        "account": general.account,
        "qos": general.qos,
        "constraint": general.constraint,
        "exclude": size.exclude,
        "array": f"0-{tasks - 1}%{min(tasks, size.array_parallelism)}" if tasks > 1 else None,
        "nodes": size.nodes,
        "ntasks-per-node": size.tasks_per_node,
        "cpus-per-task": size.cpus,
        "gpus-per-node": size.gpus * size.tasks_per_node or None,
        "mem": f"{int(size.mem_gb * 1024)}MB" if size.mem_gb else None,
        "time": size.minutes,
        "signal": f"{WARNING}@{min(cluster.warning_seconds, size.minutes * 30)}",
        "requeue" if size.requeue else "no-requeue": True,
        "kill-on-invalid-dep": "yes",
    }
    extra = {name.replace("_", "-"): value for name, value in general.extra.items()}
    return {name: value for name, value in (given | extra).items() if value not in (None, "") and value is not False}


def flags(chosen: Options) -> list[str]:
    """Options as command-line flags."""
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in chosen.items()]


def work(plan: Plan, cluster: Cluster, size: Size, tasks: Sequence[int], code: str = "", **more: str) -> str:
    """The script that runs `tasks` of a stage, one as a plain job, several as an array.

    code: a snapshot of the code other than the plan's. more: further options, with `_` for `-`.
    """
    command = f"{SRUN} {entry('work', plan.path, ranges(tasks))}"
    return _text(plan, cluster, options(plan, cluster, size, len(tasks)) | _named(more), code, [command])


def finalise(plan: Plan, cluster: Cluster, code: str = "", **more: str) -> str:
    """The script of the stage's finaliser. It submits jobs itself, which is not done from inside a step of srun."""
    size = cluster.resources("small", f"{plan.stage}.finaliser")
    return _text(plan, cluster, options(plan, cluster, size) | _named(more), code, [entry("finalise", plan.path)])


def by_hand(plan: Plan, cluster: Cluster, tasks: Sequence[int], about: Sequence[str]) -> str:
    """The script that a person submits: as `work`, and its last task ends the stage. about: lines of comment."""
    commands = [f"{SRUN} {entry('work', plan.path, ranges(tasks))} &&", f"    {entry('summarise', plan.path)}"]
    # The launcher's jobs begin in its own folder; a person may call sbatch in any.
    chosen = options(plan, cluster, plan.resources, len(tasks)) | {"chdir": str(Path.cwd())}
    return _text(plan, cluster, chosen, "", commands, about)


def entry(verb: str, stage_dir: Path, *arguments: str) -> str:
    """A shell line that runs a verb of `diagcot.jobs.entrypoints`."""
    return shlex.join([interpreter(), "-u", "-m", ENTRY, verb, str(stage_dir), *arguments])


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


def _named(more: dict[str, str]) -> Options:
    return {name.replace("_", "-"): value for name, value in more.items() if value}


def _text(
    plan: Plan, cluster: Cluster, chosen: Options, code: str, commands: Sequence[str], about: Sequence[str] = ()
) -> str:
    snapshot = shlex.quote(code or plan.code)
    log = "%A_%a.log" if "array" in chosen else "%j.log"
    chosen = chosen | {"output": chosen.get("output", str(plan.path / FOLDER / log)), "open-mode": "append"}
    lines = [
        "#!/bin/bash",
        *(f"# {line}" for line in about),
        *(f"#SBATCH {_quoted(flag)}" for flag in flags(chosen)),
        "",
        *_environment(cluster),
        *plan.setup,
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
    """The cluster's variables, unless they are set already."""
    for name, value in cluster.environment.items():
        yield f"export {name}=${{{name}:-{shlex.quote(os.path.expandvars(value))}}}"
