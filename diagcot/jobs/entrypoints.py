"""Where a job begins: `python -m diagcot.jobs.entrypoints VERB STAGE_DIR [TASKS]` in a batch script, `TaskEntry` on a laptop.

Work and finalisers are imported by name, because they submit further jobs and so lie above this module.
"""

import importlib
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagcot.jobs.environment import code, variables
from diagcot.jobs.errors import UserError
from diagcot.jobs.state import documents

STARTED = "diagcot: starting"  # in a job's log, what comes before this line is the set-up's


@dataclass(frozen=True)
class TaskEntry:
    """What submitit pickles for a laptop's task: a path and a number, so that a pickle is small and loads nothing else."""

    stage_dir: str
    task_index: int

    def __call__(self) -> str:
        """Run the task, in the environment of a run. Returns "done" or "parked"."""
        _enter(self.stage_dir)
        return str(_call("diagcot.jobs.execution.worker", "work", self.stage_dir, self.task_index))


def main(arguments: list[str]) -> int:
    """Run a verb of a batch script. Returns the exit status; raises what the work raises.

    work: the task of this array element, one of TASKS such as `0-2,5`. summarise: write `summary.json` if all units of
    the stage are done. finalise: end the stage, or resubmit what may be retried.
    """
    print(f"{STARTED} {' '.join(arguments)} at {time.strftime('%F %T')}", flush=True)
    verb, stage_dir = arguments[0], arguments[1]
    try:
        _enter(stage_dir)
        if verb != "work":  # a worker checks it itself, where its failure is recorded
            code.require_own()
        if verb == "work":
            _call("diagcot.jobs.execution.worker", "work", stage_dir, own_task(arguments[2]))
        elif verb == "summarise":
            _call("diagcot.jobs.summary", "summarise_if_complete", stage_dir)
        elif verb == "finalise":
            # SIGTERM comes some time before the end; what can still be submitted and written by then should be.
            signal.signal(signal.SIGTERM, lambda *_: None)
            print(_call("diagcot.jobs.finaliser", "finalise", stage_dir), flush=True)
        else:
            raise UserError(f"unknown verb {verb!r}: work, summarise or finalise")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


def own_task(tasks: str) -> int:
    """The task of this array element, or the only one of a plain job. tasks: such as `0-2,5`."""
    if tasks.isdigit():
        return int(tasks)
    element = int(os.environ["SLURM_ARRAY_TASK_ID"])
    for part in tasks.split(","):
        first, _, last = part.partition("-")
        count = int(last or first) - int(first) + 1
        if element < count:
            return int(first) + element
        element -= count
    raise UserError(f"array element {os.environ['SLURM_ARRAY_TASK_ID']} has no task: the script names {tasks}")


def _enter(stage_dir: str) -> None:
    """Drop the variables that are not this run's; their names go to the log."""
    cluster, plan = Path(stage_dir).parent / "cluster.yaml", Path(stage_dir) / "plan.json"
    settings = [documents.read(plan, documents.PLAN)["settings"]] if plan.exists() else []
    names = variables.named(documents.read(cluster, documents.CLUSTER) if cluster.exists() else {}, settings)
    if line := variables.sentence(variables.enter(names)):
        print(line, flush=True)


def _call(module: str, function: str, *arguments: object) -> Any:
    return getattr(importlib.import_module(module), function)(*arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
