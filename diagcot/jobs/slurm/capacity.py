"""Whether a job of a given size could ever start on this cluster.

`plan`, `doctor`, the rehearsal and resubmission all ask here. Slurm itself accepts jobs that can never start (more
nodes than a partition has, more time than it allows) and leaves them pending for ever.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from diagcot.jobs.cluster import Size
from diagcot.jobs.names import near
from diagcot.jobs.slurm import commands as slurm

COLUMNS = "%P|%a|%l|%s|%D|%c|%m|%G"  # sinfo manual page, option --format


@dataclass(frozen=True)
class NodeGroup:
    """Nodes of a partition that are equal. cpus, mem_gb, gpus: of one node. gpu_types: type -> GPUs of one node."""

    nodes: int
    cpus: int
    mem_gb: float
    gpus: int
    gpu_types: Mapping[str, int] = field(default_factory=dict)


@dataclass
class Partition:
    """One partition.

    up: whether it accepts jobs. minutes, max_nodes: upper bounds of one job; None where Slurm sets none.
    default: whether a job that names no partition runs here.
    """

    up: bool
    minutes: int | None
    max_nodes: int | None
    default: bool = False
    groups: list[NodeGroup] = field(default_factory=list)


def partitions(timeout: float = slurm.TIMEOUT_S) -> dict[str, Partition]:
    """The partitions of this cluster by name. Raises SlurmError, also if there are none."""
    if not (known := parse(slurm.call("sinfo", "-h", "-e", "-o", COLUMNS, timeout=timeout))):
        raise slurm.SlurmError("sinfo names no partition of this cluster: ask who runs it whether you may use one")
    return known


def parse(text: str) -> dict[str, Partition]:
    """Read rows of `sinfo -e` with `COLUMNS`; `*` follows the name of the default partition. Raises SlurmError."""
    known: dict[str, Partition] = {}
    for row in text.splitlines():
        if row.count("|") < COLUMNS.count("|"):
            continue
        name, state, limit, job_nodes, nodes, cpus, memory, gres = row.split("|")[:8]
        most = job_nodes.split("-")[-1]  # `1-4`, `1-infinite`
        partition = known.setdefault(
            name.rstrip("*"),
            Partition(state == "up", minutes(limit), int(most) if most.isdigit() else None, name.endswith("*")),
        )
        try:
            mem_gb = int(memory.rstrip("+")) / 1024
            group = NodeGroup(int(nodes), int(cpus.rstrip("+")), mem_gb, gpus(gres), gpu_types(gres))
        except ValueError:
            raise slurm.SlurmError(
                f"sinfo says of partition {name.rstrip('*')}: {nodes} nodes with {cpus} cores and {memory} MB: no numbers"
            ) from None
        partition.groups.append(group)
    return known


def minutes(text: str) -> int | None:
    """Whole minutes of a time limit: `10:00`, `1:00:00`, `2-00:00:00`; None for `infinite`."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text.strip())
    if match is None:
        return None
    days, hours, mins, _ = (int(part or 0) for part in match.groups())
    return days * 1440 + hours * 60 + mins


def gpus(gres: str) -> int:
    """Number of GPUs in a GRES column: `gpu:h100:4(S:0-1),nvme:1` -> 4."""
    return sum(gpu_types(gres).values())


def gpu_types(gres: str) -> dict[str, int]:
    """Type -> number of GPUs in a GRES column; the type is empty where the site names none."""
    found: Counter[str] = Counter()
    for part in re.split(r",(?![^(]*\))", gres):
        name, *words = part.split("(")[0].split(":")
        if name == "gpu":
            count = int(words.pop()) if words and words[-1].isdigit() else 1
            found[words[0] if words else ""] += count
    return dict(found)


def misfit(size: Size, name: str | None, known: Mapping[str, Partition]) -> str:
    """Why a job of this size could never start, in words; empty if it could.

    name: a partition, several separated by commas (one that fits is enough), or None for the default partition.
    """
    names = _names(name, known)
    if not names:
        return "no partition is named and the cluster has no default: set slurm.partition in the cluster file"
    for part in names:
        if part not in known:  # sbatch refuses the whole list
            return f"partition {part!r} does not exist{near(part, known)}"
    faults = ["; ".join(_faults(size, part, known[part])) for part in names]
    return "" if "" in faults else "; ".join(faults)


def most_memory(size: Size, name: str | None, known: Mapping[str, Partition]) -> float | None:
    """The most memory in GB that a node can give a job of this size, whatever it asks for now; None if no node fits."""
    bare = size.with_memory(None)
    bounds = []
    for part in _fitting(bare, name, known):
        nodes = 0
        for group in sorted(_able(bare, part.groups), key=lambda group: -group.mem_gb):
            nodes += group.nodes
            if nodes >= size.nodes:
                bounds.append(group.mem_gb)
                break
    return max(bounds, default=None)


def most_minutes(size: Size, name: str | None, known: Mapping[str, Partition]) -> int | None:
    """The longest time limit in minutes for a job of this size, whatever it asks for now; None if there is no bound."""
    bounds = [part.minutes for part in _fitting(size.model_copy(update={"minutes": 0}), name, known)]
    return None if None in bounds else max((bound for bound in bounds if bound is not None), default=None)


def _names(name: str | None, known: Mapping[str, Partition]) -> list[str]:
    if name:
        return name.split(",")
    return [part for part, partition in known.items() if partition.default]


def _fitting(size: Size, name: str | None, known: Mapping[str, Partition]) -> Iterator[Partition]:
    """The named partitions in which a job of this size could start."""
    for part in _names(name, known):
        if part in known and not any(_faults(size, part, known[part])):
            yield known[part]


def _able(size: Size, groups: Iterable[NodeGroup]) -> Iterator[NodeGroup]:
    """The nodes that have all CPUs, memory and GPUs that the job needs on one node."""
    for group in groups:
        if (
            group.cpus >= size.node_cpus
            and group.gpus >= size.node_gpus
            and (not size.gpus or _has_type(size, group))
            and group.mem_gb >= (size.node_mem_gb or 0)
        ):
            yield group


def _has_type(size: Size, group: NodeGroup) -> bool:
    return not size.gpu_type or not group.gpus or group.gpu_types.get(size.gpu_type, 0) >= size.node_gpus


def _faults(size: Size, name: str, partition: Partition) -> Iterator[str]:
    """Each reason why the job could never start in this partition."""
    if not partition.up:
        yield f"partition {name} is down"
    if partition.minutes is not None and size.minutes > partition.minutes:
        yield f"asks for {size.minutes} minutes, {name} allows {partition.minutes}"
    if partition.max_nodes is not None and size.nodes > partition.max_nodes:
        yield f"asks for {size.nodes} nodes, {name} allows a job {partition.max_nodes}"
    total = sum(group.nodes for group in partition.groups)
    if size.nodes > total:
        yield f"asks for {size.nodes} nodes, {name} has {total}"
    per_node = [
        (size.node_cpus, "CPUs", max((group.cpus for group in partition.groups), default=0)),
        (size.node_mem_gb or 0, "GB of memory", max((group.mem_gb for group in partition.groups), default=0)),
        (size.node_gpus, "GPUs", max((group.gpus for group in partition.groups), default=0)),
    ]
    if size.gpus and partition.groups and not any(_has_type(size, group) for group in partition.groups):
        types = sorted({name for group in partition.groups for name in group.gpu_types if name})
        yield f"asks for GPUs of type {size.gpu_type}, {name} has {', '.join(types) or 'GPUs without a type'}"
        return
    exceeded = [row for row in per_node if row[0] > row[2]]
    for wanted, unit, most in exceeded:
        yield f"asks for {wanted:g} {unit} per node, the nodes of {name} have at most {most:g}"
    able = sum(group.nodes for group in _able(size, partition.groups))
    if not exceeded and able < size.nodes <= total:
        together = ", ".join(f"{wanted:g} {unit}" for wanted, unit, _ in per_node if wanted)
        yield f"asks for {size.nodes} node{'s' * (size.nodes > 1)} with {together} each, {name} has {able}"
