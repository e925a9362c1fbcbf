"""Runs a chain in this process, one task after the other, so that a debugger can stop in it."""

from collections.abc import Sequence

from diagcot.jobs import finaliser as finalise
from diagcot.jobs.execution.worker import Worker
from diagcot.jobs.plans.plan import Plan


def run(plans: Sequence[Plan]) -> None:
    """Run the open tasks of the stages in order; stages of several ranks run as one. Raises what a kind raises."""
    import submitit

    for plan in plans:
        executor = submitit.DebugExecutor(folder=plan.path / "submitit")
        for slot in plan.open_slots():
            executor.submit(Worker(str(plan.path), (slot,))).result()
        finalise.summarise(plan, finalise.check(plan))
