"""What can be said of a run before it is submitted: when it would start, what Slurm would accept and never start,
what limits cut, what time and space do not suffice for. Nothing here submits anything."""

import re
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diagcot.jobs.cluster import Cluster, Size
from diagcot.jobs.plans.plan import Plan
from diagcot.jobs.settings import near
from diagcot.jobs.slurm import commands as slurm

PATIENCE_S = 3.0  # a plan is shown without Slurm's word rather than late
SHARE = 0.8  # of a time limit that a unit may be expected to take
SHAPES = "%P|%a|%l|%s|%D|%c|%m|%G"
OPTIONS = (
    "partition", "account", "qos", "constraint", "time", "nodes", "ntasks_per_node", "cpus_per_task", "mem",
    "gpus_per_node", "exclude",
)  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """Nodes of one kind in a partition (a row of sinfo)."""

    nodes: int
    cpus: int
    mem_gb: float
    gpus: int


@dataclass
class Partition:
    """up: whether it takes jobs. minutes, most: bounds of a job's time and nodes; None where Slurm sets none."""

    up: bool
    minutes: float | None
    most: int | None
    default: bool = False
    shapes: list[Shape] = field(default_factory=list)


@dataclass(frozen=True)
class Forecast:
    """limits: of the user, None if not known. starts: stage -> when it would start, or what Slurm says against it.
    warnings: what will go wrong. notes: what will be so without harm. unknown: what could not be asked, and why.
    storage: stage -> bytes it will write, None if not known. free: stage -> bytes free where it will write them."""

    storage: Mapping[str, int | None] = field(default_factory=dict)
    free: Mapping[str, int] = field(default_factory=dict)
    limits: slurm.Limits | None = None
    starts: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    notes: Sequence[str] = ()
    unknown: Sequence[str] = ()


def forecast(plans: Sequence[Plan], cluster: Cluster, storage: Mapping[str, int | None]) -> Forecast:
    """Of `plans`, those that would be submitted. storage: stage -> bytes it will write, None if that is not known."""
    warnings = [*short(plans), *space(plans, storage)]
    disk = {plan.stage: free_bytes(Path(plan.output)) for plan in plans}
    if cluster.executor != "slurm":
        return Forecast(storage, disk, warnings=warnings)
    if not slurm.available():
        lines = ["Slurm was not asked, so neither starts nor limits are known: its commands are not on PATH here"]
        return Forecast(storage, disk, warnings=warnings, unknown=lines)
    names = {plan.stage for plan in plans}
    first = [plan for plan in plans if not any(edge.stage in names for edge in plan.after)]
    partition = next((plan.resources.partition for plan in plans if plan.resources.partition), cluster.slurm.partition)
    with ThreadPoolExecutor(8) as side_by_side:
        shapes = side_by_side.submit(slurm.call, "sinfo", "-h", "-e", "-o", SHAPES, timeout=PATIENCE_S)
        limits = side_by_side.submit(slurm.limits, cluster.slurm.account, cluster.slurm.qos, partition, PATIENCE_S)
        queue = side_by_side.submit(slurm.queue, PATIENCE_S)
        tests = {plan.stage: side_by_side.submit(test_only, plan, cluster) for plan in first}
    unknown = []
    if error := _slurm_error(shapes):
        unknown.append(f"whether every size could start: {error}")
    else:
        warnings += misfits(plans, cluster, partitions(shapes.result()))
    notes, found = [], None
    if error := _slurm_error(limits):
        unknown.append(f"limits of the queue: {error}")
    else:
        found = limits.result()
        waiting = 0 if _slurm_error(queue) else len(queue.result())
        notes += waves(plans, found, waiting)
    starts = {}
    for stage, test in tests.items():
        if error := _slurm_error(test):
            unknown.append(f"when {stage} would start: {error}")
            continue
        starts[stage], fault = started(test.result())
        if fault and not any(stage in line.split(": could never")[0].split(", ") for line in warnings):
            warnings.append(f"{stage}: Slurm would refuse it: {fault}")
    return Forecast(storage, disk, found, starts, warnings, notes, _once(unknown))


def _slurm_error(asked: "Future[Any]") -> slurm.SlurmError | None:
    error = asked.exception()
    if error is not None and not isinstance(error, slurm.SlurmError):
        raise error
    return error


def _once(unknown: Sequence[str]) -> list[str]:
    """Where every question met the same fate, that is told once."""
    causes = [line.partition(": ")[2] for line in unknown]
    if len(unknown) > 2 and len({re.sub(r"\b(sinfo|scontrol|sbatch)\b", "", cause) for cause in causes}) == 1:
        return [f"Slurm was asked in vain, so neither starts nor limits nor fitting sizes are known: {causes[0]}"]
    return list(unknown)


def short(plans: Sequence[Plan]) -> list[str]:
    """Stages of which a single unit may not end within the time limit."""
    return [
        f"{plan.stage}: start-up and one unit take about {(plan.startup_s + plan.unit_s) / 60:.0f} minutes of a limit of"
        f" {plan.resources.minutes}: raise minutes of its size in the cluster file"
        for plan in plans
        if plan.startup_s + plan.unit_s > SHARE * plan.resources.minutes * 60
    ]


def space(plans: Sequence[Plan], storage: Mapping[str, int | None]) -> list[str]:
    """File systems that have less room than the stages are going to write there."""
    wanted: dict[int, list[tuple[str, int]]] = {}
    places: dict[int, Path] = {}
    for plan in plans:
        place = existing(Path(plan.output))
        device = place.stat().st_dev
        places.setdefault(device, place)
        wanted.setdefault(device, []).append((plan.stage, storage.get(plan.stage) or 0))
    told = []
    for device, rows in wanted.items():
        free, need = free_bytes(places[device]), sum(size for _, size in rows)
        if need > free:
            most = max(rows, key=lambda row: row[1])[0]
            told.append(
                f"{places[device]} has {free / 1e9:.1f} GB free for about {need / 1e9:.1f} GB that will be written"
                f" ({most} most of it): free some, or set other roots in the cluster file"
            )
    return told


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(place for place in (path, *path.parents) if place.exists())


def free_bytes(path: Path) -> int:
    return shutil.disk_usage(existing(path)).free


def waves(plans: Sequence[Plan], limits: slurm.Limits, queued: int) -> list[str]:
    """What the cluster's limits do to the submission."""
    told = [
        f"{plan.stage}: {plan.tasks} tasks go as {-(-plan.tasks // limits.array_size)} arrays (MaxArraySize"
        f" {limits.array_size})"
        for plan in plans
        if plan.tasks > limits.array_size
    ]
    jobs, room = sum(plan.tasks + 1 for plan in plans), max(0, limits.submit - queued)
    if jobs > room:
        told.append(
            f"{jobs} jobs, finalisers included, and room for {room} ({limits.name} {limits.submit}, {queued} queued"
            " already): the tasks go in waves, the finalisers submit the later ones"
        )
    return told


def misfits(plans: Sequence[Plan], cluster: Cluster, known: Mapping[str, Partition]) -> list[str]:
    """Stages whose jobs Slurm may accept and can never start."""
    told: dict[str, list[str]] = {}
    for plan in plans:
        if fault := misfit(plan.resources, plan.resources.partition or cluster.slurm.partition, known):
            told.setdefault(fault, []).append(plan.stage)
    return [f"{', '.join(stages)}: could never start: {fault}" for fault, stages in told.items()]


def misfit(size: Size, name: str | None, known: Mapping[str, Partition]) -> str:
    """Why a job of this size could never start in the partition, in words; empty if it could."""
    if name is None:
        name = next((partition for partition, has in known.items() if has.default), None)
        if name is None:
            return "no partition is named and the cluster has no default: set slurm.partition in the cluster file"
    absent = [part for part in name.split(",") if part not in known]
    if absent:
        return f"partition {absent[0]!r} does not exist{near(absent[0], known)}"
    faults = [_misfit(size, part, known[part]) for part in name.split(",")]
    return "" if "" in faults else faults[0]


def _misfit(size: Size, name: str, has: Partition) -> str:
    if not has.up:
        return f"partition {name} is down"
    if has.minutes is not None and size.minutes > has.minutes:
        return f"{size.minutes} minutes, and {name} gives at most {has.minutes:g}"
    if has.most is not None and size.nodes > has.most:
        return f"{size.nodes} nodes, and {name} gives a job at most {has.most}"
    asks = [
        ("CPUs", size.cpus * size.tasks_per_node, "cpus"),
        ("GB of memory", size.mem_gb or 0, "mem_gb"),
        ("GPUs", size.gpus * size.tasks_per_node, "gpus"),
    ]
    nodes = sum(shape.nodes for shape in has.shapes)
    if size.nodes > nodes:
        return f"{size.nodes} nodes, and {name} has {nodes}"
    for what, wanted, part in asks:
        most = max((getattr(shape, part) for shape in has.shapes), default=0)
        if wanted > most:
            return f"{wanted:g} {what} a node, and no node of {name} has more than {most:g}"
    able = sum(s.nodes for s in has.shapes if all(wanted <= getattr(s, part) for _, wanted, part in asks))
    return "" if size.nodes <= able else f"{size.nodes} such nodes, and {name} has {able} with all that it asks for"


def partitions(text: str) -> dict[str, Partition]:
    """Rows of `sinfo -e` in the columns of `SHAPES`, `*` behind the default partition's name."""
    found: dict[str, Partition] = {}
    for row in text.splitlines():
        if row.count("|") < 7:
            continue
        name, up, limit, sizes, nodes, cpus, memory, gres = row.split("|")[:8]
        minutes, most = slurm.minutes(limit), sizes.split("-")[-1]
        made = found.setdefault(
            name.rstrip("*"),
            Partition(up == "up", minutes, int(most) if most.isdigit() else None, name.endswith("*")),
        )
        made.shapes.append(Shape(int(nodes), int(cpus.rstrip("+")), int(memory.rstrip("+")) / 1024, gpus(gres)))
    return found


def gpus(gres: str) -> int:
    """`gpu:h100:4(S:0-1),nvme:1` -> 4."""
    counts = (part.split("(")[0].split(":") for part in re.split(r",(?![^(]*\))", gres) if part.startswith("gpu"))
    return sum(int(part[-1]) if part[-1].isdigit() else 1 for part in counts)


def test_only(plan: Plan, cluster: Cluster) -> str:
    """What `sbatch --test-only` says of the stage's array; it submits nothing."""
    from diagcot.jobs.slurm.submit import script_options

    options = script_options(plan, cluster, plan.resources, "")
    asked = [f"--{name.replace('_', '-')}={options[name]}" for name in OPTIONS if name in options]
    for name, value in cluster.slurm.extra.items():
        asked += [f"--{name}"] if value is True else [f"--{name}={value}"]
    if plan.tasks > 1:
        asked.append("--array=0-1")  # the start of the first; a larger array than Slurm takes is split anyway
    return slurm.said("sbatch", "--test-only", *asked, "--wrap=true", timeout=PATIENCE_S)


def started(said: str) -> tuple[str, str]:
    """(when it would start, what is wrong with it), from the answer of `sbatch --test-only`.

    >>> started("sbatch: Job 7 to start at 2026-01-02T03:04:05 using 2 processors on nodes n1 in partition gpu")
    ('2026-01-02T03:04:05', '')
    """
    found = re.search(r"to start at (\S+)", said)
    if found:
        return found.group(1), ""
    lines = [line.removeprefix("sbatch: ").removeprefix("error: ") for line in said.splitlines() if line.strip()]
    fault = next((line for line in reversed(lines) if "fail" in line.lower()), lines[-1] if lines else "no answer")
    return "", fault.removeprefix("allocation failure: ").removeprefix("Batch job submission failed: ")
