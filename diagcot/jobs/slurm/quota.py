"""How many more jobs Slurm accepts from this user."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from diagcot.jobs.cluster import Cluster, Size
from diagcot.jobs.errors import UserError
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.slurm.job_options import JobOptions
from diagcot.jobs.slurm.limits import UNLIMITED, Bound, Limits, limits

PATIENCE_S = 1200  # how long a finaliser waits while the user's other jobs fill the queue
POLL_S = 5


@dataclass
class QueueQuota:
    """The submit limits and how many jobs of each are `free`, array elements counted one by one."""

    limits: Limits
    free: dict[Bound, int]

    @classmethod
    def query(cls, jobs: Sequence[JobOptions], timeout: float = slurm.TIMEOUT_S) -> "QueueQuota":
        """The quota for jobs of these options now. Raises SlurmError if Slurm does not answer."""
        found, queue = limits(jobs, timeout), slurm.queue(timeout)
        return cls(found, {bound: bound.most - sum(map(bound.counts, queue)) for bound in found.bounds})

    @classmethod
    def wait(cls, cluster: Cluster, stage: str, size: Size) -> "QueueQuota":
        """The quota once it has room for a task of a stage and its finaliser, or after `PATIENCE_S`."""
        jobs = [cluster.options(size), cluster.options(cluster.finaliser(stage))]
        end = time.monotonic() + PATIENCE_S
        while (quota := cls.query(jobs)).room(jobs[0], jobs[1:]) < 1 and time.monotonic() < end:
            time.sleep(POLL_S)
        return quota

    def room(self, jobs: JobOptions, others: Sequence[JobOptions] = ()) -> int:
        """How many jobs of these options are accepted besides one job for each of `others`; 0 if those are not."""
        room = UNLIMITED
        for bound, free in self.free.items():
            left = free - sum(map(bound.holds, others))
            if bound.holds(jobs):
                room = min(room, left)
            elif left < 0 and any(map(bound.holds, others)):
                room = 0
        return max(0, room)

    def use(self, jobs: JobOptions, count: int) -> None:
        """Take the room of so many jobs."""
        for bound in self.free:
            self.free[bound] -= count * bound.holds(jobs)

    def take(
        self, stage: str, tasks: int, jobs: JobOptions, finaliser: JobOptions, others: Sequence[JobOptions] = ()
    ) -> int:
        """Take room for as many of `tasks` as possible and their finaliser; room for `others` stays free.

        Returns the number of tasks. Raises UserError if there is no room for a single one.
        """
        accepted = min(tasks, self.room(jobs, [finaliser, *others]))
        if accepted < 1:
            free, bound = min((free, bound) for bound, free in self.free.items() if bound.holds(jobs))
            raise UserError(
                f"no room for stage {stage}: {bound.name} is {bound.most}, and your queue leaves"
                f" {max(0, free)} of it. Wait until jobs have ended, or submit fewer stages at once"
            )
        self.use(jobs, accepted)
        self.use(finaliser, 1)
        return accepted
