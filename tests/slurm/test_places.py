"""The private place of a job on real daemons: gone after the job was cancelled, and after its keeper was killed too."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from diagcot.jobs import Plan
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.state import attempts
from tests import chains
from tests.faults import runs

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("devcluster")]
SLOW = {"records": 400, "seconds": 0.25}


def keepers(plan: Plan) -> dict[int, Path]:
    """Process id of the process that removes a place of the stage's running tasks -> the place."""
    rows = subprocess.run(
        ["ps", "-wweo", "pid,ppid,args"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    found = {}
    for row in rows[1:]:
        pid, parent, arguments = row.split(maxsplit=2)
        if match := re.search(r"sh (/\S+/dc[0-9a-f]{6})$", arguments):
            try:
                owner = Path(f"/proc/{parent}/cmdline").read_bytes() + Path(f"/proc/{parent}/environ").read_bytes()
            except OSError:
                continue
            if os.fsencode(plan.path.parent) in owner:
                found[int(pid)] = Path(match[1])
    return found


def started(root: Path) -> tuple[Plan, int, Path]:
    plan = chains.plan(root, "stage", 1, settings=SLOW, resources=runs.size())
    runs.submit(root, [plan])
    runs.until(lambda: runs.records(plan) > 1 and keepers(plan), "the task works in its place", 120)
    ((keeper, place),) = keepers(plan).items()
    assert place.stat().st_mode & 0o777 == 0o700
    return plan, keeper, place


def cancelled(plan: Plan) -> None:
    slurm.call("scancel", *(array.job for attempt in attempts.read(plan.path) for array in attempt.arrays))
    runs.finished([plan])


def test_the_place_of_a_cancelled_job_is_removed(tmp_path: Path) -> None:
    plan, _, place = started(tmp_path / "cancelled")
    cancelled(plan)
    runs.until(lambda: not place.exists(), "the place is removed", 60)


def test_a_place_whose_keeper_was_killed_is_removed_by_the_next_job(tmp_path: Path) -> None:
    plan, keeper, place = started(tmp_path / "killed")
    os.kill(keeper, signal.SIGKILL)
    (task,) = (int(pid.name) for pid in Path("/proc").iterdir() if pid.name.isdigit() and holds(pid, place / "lock"))
    os.kill(task, signal.SIGKILL)
    assert place.exists()
    cancelled(plan)
    time.sleep(0.5)
    following, _, other = started(tmp_path / "next")
    assert other != place and not place.exists()
    cancelled(following)


def holds(process: Path, file: Path) -> bool:
    """Whether the process has the file open."""
    try:
        return any(descriptor.readlink() == file for descriptor in (process / "fd").iterdir())
    except OSError:
        return False
