"""What a job puts on the disks of its nodes, on real daemons: its private place and copies of shards, gone after a kill."""

import json
import os
import re
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from diagcot.data.pixels import Jpeg
from diagcot.data.study import Image, Study
from diagcot.jobs import Plan
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.state import attempts
from diagcot.shards.writer import ShardWriter
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


def test_shards_are_copied_once_a_node_read_there_and_gone_after_a_kill(tmp_path: Path) -> None:
    root = tmp_path / "reading"
    shards = [made_shard(root / "shards" / f"0000{number}.h5") for number in range(2)]
    with tempfile.TemporaryDirectory(prefix="d", dir="/tmp") as folder:
        for node in ("cpu1", "cpu2"):
            (Path(folder) / node).mkdir(mode=0o700)
        size = runs.size(nodes=2, tasks_per_node=2, local_shards=True)
        more = {"settings": {"shards": str(root / "shards")}, "kind": "tests.kinds.reading:run", "resources": size}
        plan = chains.plan(root, "stage", 1, **more)
        profiles = {"small": runs.SMALL}
        on = chains.cluster(
            "slurm",
            resource_profiles=profiles,
            scratch=f"{folder}/$SLURMD_NODENAME",
            max_attempts=1,
            warning_seconds=20,
        )
        runs.submit(root, [plan], on)
        runs.until(lambda: len(list(plan.workspace.glob("00001.*.json"))) == 4, "all ranks have read all shards", 120)
        rows = [json.loads(path.read_text()) for path in plan.workspace.glob("0000?.*.json")]
        assert {row["node"] for row in rows} == {"cpu1", "cpu2"} and {row["images"] for row in rows} == {2, 4}
        for row in rows:
            assert row["files"] and all(name.startswith(f"{folder}/{row['node']}/dc") for name in row["files"])
        copied = [path.relative_to(folder).parts[0] for path in Path(folder).glob("*/dc*/f/*.h5")]
        assert sorted(copied) == ["cpu1", "cpu1", "cpu2", "cpu2"]
        logs = "".join(path.read_text() for path in (plan.path / "out").glob("*.log"))
        assert [logs.count(f"{path.name}: ") for path in shards] == [2, 2]  # once a node, by one of its two ranks
        copies = list(Path(folder).glob("cpu1/dc*/f/*.h5"))
        processes = [pid for pid in Path("/proc").iterdir() if pid.name.isdigit()]
        reader = next(pid for pid in processes if any(holds(pid, copy) for copy in copies))
        os.kill(int(reader.name), signal.SIGKILL)  # Slurm ends the other ranks
        runs.finished([plan])
        runs.until(lambda: not list(Path(folder).glob("*/*")), "the copies are removed", 60)


def made_shard(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with ShardWriter(path, part=0, sources=[{"dataset": "phantom"}]) as writer:
        for name in ("1", "2"):
            image = Image("frontal", "PA", 8, 8, phantom=True)
            writer.add(Study("phantom", name, name, "train", images=(image,)), [Jpeg(b"a picture", 8, 8, True)])
    return path


def holds(process: Path, file: Path) -> bool:
    """Whether the process has the file open."""
    try:
        # Not by name: in another mount namespace a file may have another one.
        return any(file.samefile(descriptor) for descriptor in (process / "fd").iterdir())
    except OSError:
        return False
