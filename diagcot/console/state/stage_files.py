"""What the files of a stage say at one time, read once for all that is derived from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from diagcot.jobs.plans import segments, stored
from diagcot.jobs.state import attempts, failures, ledger
from diagcot.jobs.state.attempts import Attempt
from diagcot.jobs.state.executions import Logs, logs_of


@dataclass(frozen=True)
class StageFiles:
    """Plan, manifests, logs, attempts and failures of a stage. damage: what is wrong with its lists of units, if anything."""

    path: Path
    plan: Mapping[str, Any]
    manifests: frozenset[bytes]
    logs: Logs
    attempts: list[Attempt]
    failures: set[tuple[str, str]]  # (task, attempt token) of executions that left an error
    damage: str

    @classmethod
    def read(cls, path: Path, plan: Mapping[str, Any]) -> "StageFiles":
        """Read the files of the stage in `path`."""
        manifests = ledger.done_manifests(path)  # before the logs: a task without a log then has no manifest either
        return cls(
            path,
            plan,
            manifests,
            logs_of(path),
            attempts.known(path),
            failures.executions(path),
            stored.damage(path, plan) if len(manifests) < plan["units"] else "",
        )

    @property
    def units(self) -> int:
        """Number of units."""
        return int(self.plan["units"])

    @property
    def tasks(self) -> int:
        """Number of array tasks."""
        return int(self.plan["tasks"])

    @cached_property
    def failed_tasks(self) -> frozenset[str]:
        """Names of the tasks that have left an error."""
        return frozenset(task for task, _ in self.failures)

    @property
    def done(self) -> int:
        """Number of units that are done."""
        return min(self.units, len(self.manifests))

    def unfinished_units(self) -> dict[int, int]:
        """Task index -> number of unfinished units, for tasks that have some; empty if the lists of units are damaged.

        A task works through its units in order, so the manifest of its last unit means that all are done, and a task
        without a log has no manifest. If the sum shows that this does not hold (a unit was withdrawn), every unit is looked
        up.
        """
        if self.done == self.units or self.damage:
            return {}
        planned = segments.of_plan(self.plan)
        sizes = {index: end - first for index in range(self.tasks) for first, end in [segments.bounds(planned, index)]}
        if not self.manifests:
            return sizes
        lines = stored.task_lines(self.path, self.plan)
        ended = {index for index in sizes if lines.last[index] in self.manifests}
        done = {index: sizes[index] for index in ended}
        for name in self.logs:
            if (index := int(name)) in sizes and index not in ended:
                done[index] = len(self.manifests.intersection(lines.manifests(index)))
        if sum(done.values()) != len(self.manifests):
            done = {index: len(self.manifests.intersection(lines.manifests(index))) for index in sizes}
        return {index: size - done.get(index, 0) for index, size in sizes.items() if size > done.get(index, 0)}
