"""How tasks end on real daemons, and what follows: rows 6 to 10, 17 and 30."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from diagcot.console.screens import failures
from diagcot.console.state import executor
from diagcot.console.state.status import snapshot
from diagcot.jobs import Plan
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.state import attempts
from tests import chains
from tests.conftest import DevCluster
from tests.faults import runs

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("devcluster")]
LONG = {"records": 250, "seconds": 0.25}


def on_gpu(*others: int, **more: Any) -> Any:
    """A size that leaves the gpu nodes `others` out."""
    return runs.size(exclude=",".join(f"gpu{k}" for k in others), **{"partition": "gpu"} | more)


@dataclass(frozen=True)
class Slow:
    """Runs that last a minute or two, and go on beside the other tests of this module."""

    parks: Plan
    unable: Plan
    deaf: Plan
    hangs: Plan


@pytest.fixture(scope="module", autouse=True)
def slow(devcluster: DevCluster, tmp_path_factory: pytest.TempPathFactory) -> Slow:
    def one(name: str, count: int = 1, **more: Any) -> Plan:
        root = tmp_path_factory.mktemp(name)
        plan = chains.plan(root, "stage", count, **more)
        runs.submit(root, [plan])
        return plan

    minute = {"minutes": 1, "gpus": 0}
    return Slow(
        parks=one("parks", 2, settings=LONG, resources=on_gpu(2, 3, 4, **minute)),
        unable=one("unable", settings=LONG, resources=on_gpu(2, 3, 4, requeue=False, **minute)),
        deaf=one(
            "deaf",
            settings=LONG | {"records": 400, "mishaps": {"00000": ["deaf"]}},
            resources=on_gpu(2, 3, 4, **minute),
        ),
        hangs=one(
            "hangs",
            3,
            settings={"mishaps": {"00000": ["hang", "..."], "00001": ["hang"]}},
            resources=on_gpu(2, 3, 4, hang_minutes=0.1),
        ),
    )


@pytest.mark.row(
    6,
    promise="warned, the task parks at its last record and only it is requeued; one that ignores signals is killed and"
    " requeued by Slurm; neither counts as a failure; the bytes are those of an undisturbed run",
    injected="urgent jobs on a partition with PreemptMode=REQUEUE and GraceTime",
    daemons="real",
)
def test_row_06_a_preempted_task_goes_on_from_its_last_record(tmp_path: Path) -> None:
    hears = chains.plan(
        tmp_path / "hears", "stage", 2, settings=LONG | {"records": 80},
        resources=on_gpu(1, 2, 4, partition="spot", gpus=2),
    )  # fmt: skip
    deaf = chains.plan(
        tmp_path / "deaf6", "stage", 1, settings=LONG | {"mishaps": {"00000": ["deaf"]}},
        resources=on_gpu(1, 2, 3, partition="spot", gpus=2),
    )  # fmt: skip
    for plan in (hears, deaf):
        runs.submit(tmp_path / plan.run, [plan])
    runs.until(lambda: runs.records(hears) > 8 and runs.records(deaf) > 2, "work has begun")
    options = ["-p", "urgent", "--mem=50", "-o", "/dev/null", "--wrap", "sleep 1"]
    slurm.call("sbatch", "-w", "gpu3", "--gres=gpu:2", *options)
    slurm.call("sbatch", "-w", "gpu4", "--gres=gpu:4", *options)
    runs.finished([hears])
    runs.finished([deaf])
    runs.whole(hears, deaf)
    assert sorted(len(runs.executions(hears, task_index)) for task_index in (0, 1)) == [
        1,
        2,
    ]  # room for one job was enough
    (twice,) = (task_index for task_index in (0, 1) if len(runs.executions(hears, task_index)) == 2)
    for plan, task_index in ((hears, twice), (deaf, 0)):
        first, second = runs.executions(plan, task_index)
        assert (first.split("-")[0], first[-2:], second[-2:]) == (second.split("-")[0], "-0", "-1")
        assert runs.why(plan) == ["submitted"] and runs.summary(plan)["failures"] == 0
        unit = runs.manifest(plan, plan.keys[task_index])
        assert unit["seconds"] < plan.settings["records"] * plan.settings["seconds"]  # it did not begin anew
    assert "parked" in runs.log(hears, twice) and "parked" not in runs.log(deaf, 0)


MEMORY = {"00001": ["fill 190"], "00002": ["exit 137"], "00003": ["exit 125"]}


@pytest.mark.row(
    8,
    promise="a task that was killed for its memory runs again with 1.5 times as much, and no other does",
    injected="a task that outgrows its memory (OverMemoryKill), tasks that end with 137 and 125 without a message",
    daemons="real",
)
def test_row_08_a_task_out_of_memory_gets_more(tmp_path: Path) -> None:
    plan = chains.plan(
        tmp_path, "stage", 4, settings={"mishaps": MEMORY | {"00001": ["fill 190", "..."]}},
        resources=runs.size(mem_gb=0.2),
    )  # fmt: skip
    runs.submit(tmp_path, [plan])
    runs.finished([plan])
    runs.whole(plan)
    second = attempts.read(plan.path)[1]
    assert [array.tasks for array in second.arrays] == [(1, 2, 3)]
    assert second.arrays[0].resources["mem_gb"] == pytest.approx(0.3)
    assert second.why == "3 × out of memory: runs again with more"


@pytest.mark.skipif(os.getuid() != 0 or not Path("/sys/fs/cgroup/memory").is_dir(), reason="needs root and cgroup v1")
@pytest.mark.row(
    8,
    promise="memory grows to that of the largest node and no further; then the stage stops with the reason",
    injected="a task that outgrows every node, killed by the kernel (cgroup)",
    daemons="real",
)
def test_row_08_memory_has_a_bound(tmp_path: Path, devcluster_with: Callable[..., DevCluster]) -> None:
    devcluster_with(cgroup=True, accounting=True, gpu_nodes=0, cpu_nodes=2, memory_mb=450)
    plan = chains.plan(
        tmp_path, "stage", 2, settings={"mishaps": {"00001": ["fill 600", "..."]}}, resources=runs.size(mem_gb=0.2)
    )
    runs.submit(tmp_path, [plan], chains.cluster("slurm", resource_profiles={"small": runs.SMALL | {"mem_gb": 0.3}}))
    runs.finished([plan])
    sizes = [array.resources["mem_gb"] for attempt in attempts.read(plan.path) for array in attempt.arrays]
    assert sizes == pytest.approx([0.2, 0.3, 450 / 1024])
    assert plan.missing() == ["00001"]
    assert runs.summary(plan)["state"] == "failed" and "OUT_OF_MEMORY" in runs.summary(plan)["why"]


@pytest.mark.row(
    9,
    promise="the tasks of a failed node run again on other nodes: requeued by Slurm if allowed, otherwise submitted again"
    " without that node, not counted",
    injected="slurmd and all processes of the node are killed",
    daemons="real",
)
def test_row_09_tasks_of_a_failed_node_run_elsewhere(tmp_path: Path, devcluster: DevCluster) -> None:
    settings = {"records": 60, "seconds": 0.25}
    barred = chains.plan(tmp_path / "again", "stage", 2, settings=settings, resources=runs.size(requeue=False))
    moved = chains.plan(tmp_path / "requeued", "stage", 2, settings=settings, resources=runs.SIZE)
    for plan in (barred, moved):
        runs.submit(tmp_path / plan.run, [plan])
    runs.until(lambda: runs.records(barred) > 4 and runs.records(moved) > 4, "work has begun")
    node = slurm.call("squeue", "-h", "-t", "R", "-n", attempts.read(barred.path)[0].arrays[0].name, "-o", "%N").split()
    devcluster("kill-node", node[0])
    try:
        runs.finished([barred])
        runs.finished([moved])
    finally:
        devcluster("restore-node", node[0])
    runs.whole(barred, moved)
    second = attempts.read(barred.path)[1]
    assert second.arrays[0].resources["exclude"] == node[0]
    assert set(second.spent.values()) == {0} and "the node failed" in second.why
    assert runs.why(moved) == ["submitted"]  # nobody but Slurm had to act


@pytest.mark.row(
    10,
    promise="tried once more and then stopped; the first traceback is shown once, with its count; what follows is"
    " cancelled and the other tasks are kept",
    injected="an exception of the kind in one of three tasks",
    daemons="real",
)
def test_row_10_an_error_in_user_code_is_tried_once_more_and_shown(tmp_path: Path) -> None:
    plan = chains.plan(tmp_path, "stage", 3, settings={"fail": "00001"}, resources=runs.SIZE)
    runs.submit(tmp_path, [plan])
    runs.finished([plan])
    assert plan.missing() == ["00001"] and runs.summary(plan)["state"] == "failed"
    assert [len(runs.executions(plan, task_index)) for task_index in range(3)] == [1, 2, 1]
    assert "asked to fail at 00001" in runs.summary(plan)["why"]
    answer = executor.query(plan.path.parent)
    shown = list(failures.failures(snapshot(plan.path.parent, answer).stages[0]))
    assert [(one.kind, one.units) for one in shown] == [("RuntimeError", 1)]
    assert "count.py" in shown[0].where[-1]


@pytest.mark.row(
    17,
    promise="the element whose SLURM_JOB_ID is that of the whole array requeues itself and no other",
    injected="the warning signal for that element of an array of three",
    daemons="real",
)
def test_row_17_the_placeholder_of_an_array_requeues_itself_alone(tmp_path: Path) -> None:
    plan = chains.plan(tmp_path, "stage", 3, settings={"records": 40, "seconds": 0.25}, resources=runs.SIZE)
    runs.submit(tmp_path, [plan])
    array = attempts.read(plan.path)[0].arrays[0].job
    runs.until(lambda: len(list((plan.path / "partial").glob("*.jsonl"))) == 3, "all have begun")
    rows = [row.split() for row in slurm.call("squeue", "-h", "-r", "-j", array, "-o", "%A %F %K").splitlines()]
    (placeholder,) = (index for single, whole, index in rows if single == whole)
    slurm.call("scancel", "-s", "USR2", f"{array}_{placeholder}")
    runs.finished([plan])
    runs.whole(plan)
    expected = [[f"{array}_{k}-0"] + [f"{array}_{k}-1"] * (str(k) == placeholder) for k in range(3)]
    assert [runs.executions(plan, task_index) for task_index in range(3)] == expected
    assert runs.why(plan) == ["submitted"]


@pytest.mark.row(
    7,
    promise="warned in time, the task parks and is requeued; where it may not requeue itself or ignores signals, the"
    " finaliser submits it again; each continues from its last record, and an end with progress is not counted",
    injected="--time=1 for a minute and more of work",
    daemons="real",
)
def test_row_07_at_the_time_limit_a_task_goes_on_from_its_last_record(slow: Slow) -> None:
    for plan in (slow.parks, slow.unable, slow.deaf):
        runs.finished([plan])
        runs.whole(plan)
        assert runs.summary(plan)["failures"] == 0
    for task_index in range(2):
        ends = [token.rpartition("-")[2] for token in runs.executions(slow.parks, task_index)]
        assert ends == [str(k) for k in range(len(ends))] and len(ends) > 1  # the warning may come a minute early
    assert runs.why(slow.parks) == ["submitted"]
    for plan in (slow.unable, slow.deaf):
        again = set(runs.why(plan)[1:])  # several times, as the warning may come a minute early
        assert again == {"time limit: continues from its last record or checkpoint"}
        assert [attempt.spent for attempt in attempts.read(plan.path)[1:]] == [{0: 0}] * (len(runs.why(plan)) - 1)
        assert {token[-2:] for token in runs.executions(plan, 0)[:2]} == {"-0"}
    assert "not requeued" in runs.log(slow.unable, 0)
    for plan in (slow.parks, slow.unable, slow.deaf):
        for key in plan.keys:
            assert runs.manifest(plan, key)["seconds"] < plan.settings["records"] * plan.settings["seconds"]


@pytest.mark.row(
    30,
    promise="after hang_minutes without a sign of life the stacks of all threads are in the log and the task is"
    " requeued; one that hangs every time is stopped; the others are not touched",
    injected="tasks that sleep for ever, once and always",
    daemons="real",
)
def test_row_30_a_hang_is_told_requeued_and_bounded(slow: Slow) -> None:
    began = time.monotonic()
    runs.finished([slow.hangs])
    assert time.monotonic() - began < runs.PATIENCE_S
    plan = slow.hangs
    assert plan.missing() == ["00000"]
    assert len(runs.executions(plan, 2)) == 1
    assert [token[-2:] for token in runs.executions(plan, 1)] == ["-0", "-1"]
    assert 2 <= len(runs.executions(plan, 0)) <= 6
    for task_index in (0, 1):
        log = runs.log(plan, task_index)
        assert "no sign of life" in log and "in mishap" in log  # where it sleeps
    assert "no sign of life" in runs.summary(plan)["why"]
