"""How many more jobs Slurm accepts from this user."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from diagcot.jobs.cluster import Cluster, Size
from diagcot.jobs.errors import UserError
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.slurm.limits import Limits, limits

PATIENCE_S = 1200  # how long a finaliser waits while the user's other jobs fill the queue
POLL_S = 5


@dataclass
class QueueQuota:
    """The submit limit and how many jobs of it are `free`, array elements counted one by one."""

    limits: Limits
    free: int

    @classmethod
    def query(cls, cluster: Cluster, sizes: Sequence[Size]) -> "QueueQuota":
        """The quota for jobs of these sizes now. Raises SlurmError if Slurm does not answer."""
        partition = next((size.partition for size in sizes if size.partition), cluster.slurm.partition)
        bounds = limits(cluster.slurm.account, cluster.slurm.qos, partition)
        return cls(bounds, bounds.submit - len(slurm.queue()))

    @classmethod
    def wait(cls, cluster: Cluster, size: Size) -> "QueueQuota":
        """The quota once it has room for a task and its finaliser, or after `PATIENCE_S`."""
        end = time.monotonic() + PATIENCE_S
        while (quota := cls.query(cluster, [size])).free < 2 and time.monotonic() < end:
            time.sleep(POLL_S)
        return quota

    def take(self, stage: str, tasks: int, reserve: int) -> int:
        """Take room for as many of `tasks` as possible and their finaliser; `reserve` jobs stay free.

        Returns the number of tasks. Raises UserError if there is no room for a single one.
        """
        accepted = min(tasks, self.free - reserve - 1)
        if accepted < 1:
            raise UserError(
                f"no room for stage {stage}: {self.limits.name} is {self.limits.submit}, and your queue leaves"
                f" {max(0, self.free)} of it. Wait until jobs have ended, or submit fewer stages at once"
            )
        self.free -= accepted + 1
        return accepted
