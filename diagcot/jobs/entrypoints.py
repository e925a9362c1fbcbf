"""What submitit pickles for a job: an import path and its arguments, so that a pickle is small and loads nothing else."""

import importlib
import os
from dataclasses import dataclass


@dataclass(frozen=True)
class TaskEntry:
    """Runs the array task that Slurm has started; one pickle serves a whole array."""

    stage_dir: str
    tasks: tuple[int, ...]
    """The task index of each array element; a single one is a plain job."""

    def __call__(self) -> str:
        """Run the task. Returns "done" or "parked"."""
        element = int(os.environ["SLURM_ARRAY_TASK_ID"]) if len(self.tasks) > 1 else 0
        return _call("diagcot.jobs.execution.worker", "work", self.stage_dir, self.tasks[element])


@dataclass(frozen=True)
class FinaliserEntry:
    """Runs the finaliser of a stage."""

    stage_dir: str

    def __call__(self) -> str:
        """Run the finaliser. Returns "done", "retried" or "superseded"."""
        return _call("diagcot.jobs.finaliser", "finalise", self.stage_dir)


def _call(module: str, function: str, *arguments: object) -> str:
    # By import path: what a job runs submits further jobs, so it lies above this module.
    result: str = getattr(importlib.import_module(module), function)(*arguments)
    return result
