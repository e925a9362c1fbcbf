"""The cluster: does Slurm answer, and could every size of the cluster file ever start on it?"""

from collections.abc import Iterator
from dataclasses import dataclass

from diagcot.jobs import Cluster
from diagcot.jobs.cluster import Size
from diagcot.jobs.settings import near
from diagcot.jobs.slurm import commands as slurm
from diagcot.preflight.finding import Finding, bad, good, note


@dataclass(frozen=True)
class Partition:
    """What the largest nodes of a partition have (sinfo manual page)."""

    nodes: int
    minutes: float
    cpus: int
    memory_gb: float
    gpus: int


def answers(cluster: Cluster) -> Iterator[Finding]:
    """Slurm's commands, its daemons, and each size against the partition it names."""
    if not slurm.available():
        remedy = "load your site's Slurm (module load slurm), or try `make devcluster-up` and CLUSTER=devcluster"
        yield bad("Slurm", "sbatch is not on PATH", remedy)
        return
    try:
        version = slurm.call("sinfo", "--version", timeout=5).strip()
        found = ask(5)
    except slurm.SlurmError as error:
        remedy = "is SLURM_CONF right? `scontrol ping` says which controller is asked"
        if cluster.name == "devcluster":
            remedy = 'start it (`make devcluster-up`), then: eval "$(python3 slurm/devcluster/devcluster.py env)"'
        yield bad("Slurm", str(error), remedy)
        return
    yield good("Slurm", f"{version}, partitions {', '.join(sorted(found))}")
    try:
        slurm.call("sacct", "-X", "-n", "-S", "now", timeout=5)
        yield good("accounting", "sacct answers")
    except slurm.SlurmError as error:
        yield note(
            "accounting", str(error), "without it, jobs that vanish show as unknown; files still say what is done"
        )
    for name, size in cluster.resource_profiles.items():
        yield from fits(name, size, size.partition or cluster.slurm.partition, found)


def ask(timeout: float) -> dict[str, Partition]:
    """The partitions of this cluster by name. Raises SlurmError."""
    return partitions(slurm.call("sinfo", "-h", "-o", "%R|%D|%l|%c|%m|%G", timeout=timeout))


def fits(name: str, size: Size, partition: str | None, found: dict[str, Partition]) -> Iterator[Finding]:
    """Whether a job of this size could ever start; Slurm itself accepts many that never can."""
    if partition is None:
        return  # the cluster's default partition
    subject = f"size {name}"
    if partition not in found:
        yield bad(subject, f"partition {partition!r} does not exist{near(partition, found)}", "mend the cluster file")
        return
    has = found[partition]
    asks = [
        ("nodes", size.nodes, has.nodes),
        ("minutes", size.minutes, has.minutes),
        ("CPUs a node", size.cpus * size.tasks_per_node, has.cpus),
        ("GB a node", size.mem_gb or 0, has.memory_gb),
        ("GPUs a node", size.gpus * size.tasks_per_node, has.gpus),
    ]
    over = [f"{wanted:g} {what} of {there:g}" for what, wanted, there in asks if wanted > there]
    if over:
        remedy = "lower it in the cluster file, or name another partition: Slurm would accept it and never start it"
        yield bad(subject, f"asks {partition} for {', '.join(over)}", remedy)
    else:
        yield good(subject, f"fits {partition}")


def partitions(text: str) -> dict[str, Partition]:
    """Rows of `sinfo -o %R|%D|%l|%c|%m|%G`, several a partition where its nodes differ."""
    found: dict[str, Partition] = {}
    for row in text.splitlines():
        name, nodes, limit, cpus, memory, gres = row.split("|")
        before = found.get(name, Partition(0, 0, 0, 0, 0))
        found[name] = Partition(
            before.nodes + int(nodes),
            minutes(limit),
            max(before.cpus, int(cpus.rstrip("+"))),
            max(before.memory_gb, int(memory.rstrip("+")) / 1024),
            max(before.gpus, gpus(gres)),
        )
    return found


def minutes(limit: str) -> float:
    """`1-02:03:04`, `2:03:04`, `30:00`, `infinite`."""
    if limit in ("infinite", "n/a"):
        return float("inf")
    days, _, clock = limit.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    while len(parts) < 3:
        parts.insert(0, 0)
    hours, mins, seconds = parts
    return int(days or 0) * 1440 + hours * 60 + mins + seconds / 60


def gpus(gres: str) -> int:
    """`gpu:h100:4(S:0-1),nvme:1` -> 4."""
    total = 0
    for part in gres.split(","):
        if part.startswith("gpu"):
            count = part.split("(")[0].rsplit(":", 1)[-1]
            total += int(count) if count.isdigit() else 1
    return total
