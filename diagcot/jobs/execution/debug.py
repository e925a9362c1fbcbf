"""Runs a chain in this process, one task after the other, so that a debugger can stop in it."""

from collections.abc import Sequence

from diagcot.jobs.entrypoints import TaskEntry
from diagcot.jobs.plans.plan import Plan
from diagcot.jobs.summary import check, summarise


def run(plans: Sequence[Plan]) -> None:
    """Run the open tasks of the stages in order, each with a single rank. Raises what a kind raises."""
    import submitit

    for plan in plans:
        executor = submitit.DebugExecutor(folder=plan.path / "submitit")
        for task_index in plan.open_tasks():
            executor.submit(TaskEntry(str(plan.path), task_index)).result()
        summarise(plan, check(plan))
