"""Runs of the counting kind on real daemons: submitted, waited for, and compared with what they should write."""

import json
import os
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from diagcot.jobs import Cluster, Plan, chain
from diagcot.jobs.cluster import Size
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.state import attempts
from tests import chains

SMALL = {"partition": "cpu", "minutes": 5, "mem_gb": 0.5}
CLUSTER = chains.cluster("slurm", resource_profiles={"small": SMALL}, warning_seconds=20)
SIZE = Size.model_validate(SMALL)
# For a shim: whether a process of a job called it. Commands of Slurm do not get the job's own variables.
IN_A_JOB = "grep -qz ^SLURMD_NODENAME= /proc/$PPID/environ"
PATIENCE_S = 300  # for a machine that is busy with other things; a test that needs it has not failed by itself


def size(**more: Any) -> Size:
    return Size.model_validate(SMALL | more)


def submit(root: Path, plans: Sequence[Plan], on: Cluster = CLUSTER) -> list[chain.Submitted]:
    chains.write(root, list(plans), on)
    return chain.submit_chain(plans, {plan.stage for plan in plans}, on)


def until(ready: Callable[[], object], what: str, seconds: float = PATIENCE_S) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.2)


def queued(run: str) -> list[slurm.Job]:
    """Elements of the run that Slurm has not finished with, whoever submitted them."""
    return [job for job in slurm.queue() if job.name.startswith(f"{run}.")]


def finished(plans: Sequence[Plan], seconds: float = PATIENCE_S) -> None:
    """Wait until Slurm has nothing of the run left: nothing pends for ever."""
    until(lambda: not queued(plans[0].run), f"the end of {plans[0].run}", seconds)


def accepted(run: str) -> list[tuple[str, str]]:
    """(id, name) of every array and plain job that Slurm has accepted of this run in the last minutes."""
    rows = (row.partition("|") for row in slurm.call("squeue", "-h", "-t", "all", "-o", "%F|%j").splitlines())
    return sorted({(job, name) for job, _, name in rows if name.startswith(f"{run}.")})


def whole(*plans: Plan) -> None:
    """Every unit was published exactly once, with the bytes that an undisturbed run writes, and nothing else is there."""
    for plan in plans:
        records = plan.settings.get("records", 3)
        for key in plan.keys:
            text = "".join(f"{key}-{n:04d} {n * n}\n" for n in range(records))
            assert (plan.output / f"{key}.txt").read_text() == text
        assert sorted(os.listdir(plan.output)) == sorted(f"{key}.txt" for key in plan.keys)
        assert sorted(os.listdir(plan.path / "done")) == sorted(f"{key}.json" for key in plan.keys)
        assert summary(plan)["state"] == "done"


def summary(plan: Plan) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((plan.path / "summary.json").read_text())
    return found


def manifest(plan: Plan, key: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((plan.path / "done" / f"{key}.json").read_text())
    return found


def why(plan: Plan) -> list[str]:
    """Why each submission of the stage was made."""
    return [attempt.why for attempt in attempts.read(plan.path)]


def executions(plan: Plan, task_index: int) -> list[str]:
    """The executions of a task, by job and restarts, in order."""
    tokens = [
        path.name.split(".")[1] for path in (plan.path / "out").glob(f"{task_index:05d}.*.log") if ".r" not in path.name
    ]
    return sorted(tokens, key=lambda token: [int(part) for part in token.replace("_", "-").split("-")])


def log(plan: Plan, task_index: int) -> str:
    """The logs of all executions of a task."""
    return "".join(path.read_text() for path in sorted((plan.path / "out").glob(f"{task_index:05d}.*.log")))


def newest_log(plan: Plan, task_index: int) -> str:
    """The log of the task's last execution."""
    token = executions(plan, task_index)[-1]
    return (plan.path / "out" / f"{task_index:05d}.{token}.log").read_text()


def records(plan: Plan) -> int:
    """Records that were ever written to files that are still there."""
    return sum(len(path.read_text().splitlines()) for path in (plan.path / "partial").glob("*.jsonl"))


def shim(folder: Path, command: str, script: str, patch: Any) -> None:
    """Put a bash script before `command` on PATH; it finds the real one in $REAL, its call's number in $N.

    Jobs inherit the PATH of who submitted them, so it acts in the finaliser too.
    """
    real = shutil.which(command)
    assert real is not None
    folder.mkdir(parents=True, exist_ok=True)
    count = shlex.quote(str(folder / f"{command}.calls"))
    head = f'#!/bin/bash\nREAL={real}\necho "$*" >> {count}\nN=$(wc -l < {count})\n'
    (folder / command).write_text(head + script + '\nexec "$REAL" "$@"\n')
    (folder / command).chmod(0o755)
    if not os.environ["PATH"].startswith(str(folder)):
        patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
