"""Runs a chain in this process, one task after the other, so that a debugger can stop in it."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from diagcot.jobs.entrypoints import TaskEntry
from diagcot.jobs.environment import variables
from diagcot.jobs.errors import UserError
from diagcot.jobs.plans.plan import Plan
from diagcot.jobs.state import runner
from diagcot.jobs.summary import check, summarise

VARIABLE = "DIAGCOT_DEBUG"
"""Set while a task runs in this process: its output and signals are those of the terminal."""


def run(run_dir: Path, plans: Sequence[Plan]) -> bool:
    """Run the open tasks of the stages in order, each with a single rank. Raises what a kind raises.

    In a terminal, pdb opens where the exception was raised first, except for a UserError. Returns False, and runs nothing,
    while another process works on the run.
    """
    if not plans:
        return True
    held = runner.lock(run_dir)
    if held is None:
        return False
    with held:
        try:
            _run(plans)
        finally:
            held.truncate(0)  # this process may live on
    return True


def _run(plans: Sequence[Plan]) -> None:
    before = dict(os.environ)
    os.environ[VARIABLE] = "1"
    for name in before.keys() - variables.outside_job(before).keys():  # this is no job, though it may run inside one
        del os.environ[name]
    try:
        for plan in plans:
            for task_index in plan.open_tasks():
                _run_task(plan, task_index)
            summarise(plan, check(plan))
    finally:
        os.environ.clear()
        os.environ.update(before)


def _run_task(plan: Plan, task_index: int) -> None:
    try:
        TaskEntry(str(plan.path), task_index)()
    except UserError:
        raise
    except Exception as error:
        if sys.stdin.isatty():
            import pdb

            print(f"{type(error).__name__}: {error}")
            pdb.post_mortem(error.__traceback__)
        raise
