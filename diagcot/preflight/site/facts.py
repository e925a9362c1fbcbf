"""What a site's Slurm says of itself: partitions, nodes, accounts, limits, defaults and preemption."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from diagcot.jobs.slurm import capacity
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.slurm.capacity import NodeGroup, Partition
from diagcot.jobs.slurm.limits import Bound, limits

TIMEOUT_S = 20


@dataclass(frozen=True)
class Facts:
    """A site. config: of Slurm. settings: partition -> what scontrol shows of it. accounts: of this user."""

    version: str
    config: Mapping[str, str]
    partitions: Mapping[str, Partition]
    settings: Mapping[str, Mapping[str, str]]
    accounts: tuple[str, ...] = ()
    qos: tuple[str, ...] = ()
    array_size: int = 1001
    bounds: tuple[Bound, ...] = ()
    unknown: tuple[str, ...] = field(default=())  # what could not be asked

    @property
    def memory_is_scheduled(self) -> bool:
        """Whether jobs are given memory at all, and not only CPUs."""
        return "MEMORY" in self.config.get("SelectTypeParameters", "").upper()

    def preemptible(self, partition: str) -> bool:
        """Whether jobs of this partition may be preempted."""
        mode = self.settings.get(partition, {}).get("PreemptMode", "OFF")
        kind = self.config.get("PreemptType", "(null)")
        return mode not in ("OFF", "N/A") and kind not in ("(null)", "preempt/none")

    def usable(self, gpus: bool) -> list[str]:
        """Partitions that accept jobs and have nodes with (or without) GPUs, the best first.

        Those that are not preempted come before the others, the default one first, then the largest.
        """
        names = [
            name
            for name, part in self.partitions.items()
            if part.up and any(bool(group.gpus) == gpus for group in part.groups)
        ]

        def rank(name: str) -> tuple[bool, bool, int]:
            part = self.partitions[name]
            size = sum(group.nodes for group in part.groups if bool(group.gpus) == gpus)
            return self.preemptible(name), not part.default, -size

        return sorted(names, key=rank)

    def nodes(self, partition: str, gpus: bool) -> NodeGroup:
        """The most frequent kind of node of a partition, among those with (or without) GPUs."""
        groups = [group for group in self.partitions[partition].groups if bool(group.gpus) == gpus]
        return max(groups, key=lambda group: (group.nodes, group.mem_gb))


def ask() -> Facts:
    """Ask Slurm. Raises SlurmError if it does not answer at all; what accounting does not tell is listed in `unknown`."""
    config = slurm.config(TIMEOUT_S)
    unknown = []
    try:
        where = ["where", f"user={slurm.user()}", f"cluster={config.get('ClusterName', '')}"]
        query = ("sacctmgr", "-n", "-P", "show", "assoc", *where, "format=Account,QOS")
        rows = [row.split("|") for row in slurm.call(*query, timeout=TIMEOUT_S).splitlines()]
    except slurm.SlurmError as error:
        rows = []
        unknown.append(f"accounts and QOS: {error}")
    found = limits(timeout=TIMEOUT_S)
    return Facts(
        version=slurm.call("sinfo", "--version", timeout=TIMEOUT_S).strip(),
        config=config,
        partitions=capacity.partitions(TIMEOUT_S),
        settings={row.get("PartitionName", ""): row for row in slurm.show("partition", timeout=TIMEOUT_S)},
        accounts=tuple(dict.fromkeys(row[0] for row in rows if row[0])),
        qos=tuple(dict.fromkeys(name for row in rows for name in re.split(",", row[1]) if name)),
        array_size=found.array_size,
        bounds=found.bounds,
        unknown=tuple(unknown),
    )
