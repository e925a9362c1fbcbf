"""Limits of arrays and of submissions, edges that cannot be met, loops, and ids that come round: rows 18 to 21."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from diagcot.console.state import executor
from diagcot.console.state.status import snapshot
from diagcot.jobs import UserError, causes, chain
from diagcot.jobs.slurm import cancellation
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.state import attempts
from tests import chains
from tests.chains import Edge
from tests.conftest import DevCluster
from tests.faults import runs

pytestmark = pytest.mark.slurm
Start = Callable[..., DevCluster]
SMALL_ARRAYS = "MaxArraySize=5"


def limited(devcluster_with: Start) -> DevCluster:
    return devcluster_with(enforce=True, extra=SMALL_ARRAYS)


@pytest.mark.row(
    18,
    promise="tasks are cut into arrays that Slurm takes, each task in exactly one; what follows waits for all of them",
    injected="MaxArraySize=5 and stages of 4, 5, 6 and 23 tasks",
    daemons="real",
)
def test_row_18_a_stage_is_cut_into_arrays_that_slurm_takes(tmp_path: Path, devcluster_with: Start) -> None:
    limited(devcluster_with)
    made = []
    for count in (4, 5, 6, 23):
        root = tmp_path / f"n{count}"
        plans = [chains.plan(root, "first", count, resources=runs.SIZE)]
        plans.append(chains.plan(root, "pairs", count, resources=runs.SIZE, after=(Edge("first", elementwise=True),)))
        plans.append(chains.plan(root, "last", 1, resources=runs.SIZE, after=(Edge("pairs"),)))
        runs.submit(root, plans)
        made.append(plans)
    for plans in made:
        first, pairs, _ = (attempts.read(plan.path)[0] for plan in plans)
        tasks = [task_index for array in first.arrays for task_index in array.tasks]
        assert tasks == list(range(plans[0].tasks)) and max(len(array.tasks) for array in first.arrays) <= 5
        for one, partner in zip(pairs.arrays, first.arrays, strict=True):
            assert partner.job in one.after
    for plans in made:
        runs.finished(plans)
        runs.whole(*plans)
        assert [runs.why(plan) for plan in plans] == [["submitted"]] * 3


@pytest.mark.row(
    18,
    promise="the finaliser of a stage follows every one of its arrays",
    injected="MaxArraySize=5 and a stage of 23 tasks, held in the queue",
    daemons="real",
)
def test_row_18_all_arrays_are_in_the_dependency(tmp_path: Path, devcluster_with: Start) -> None:
    limited(devcluster_with)
    plan = chains.plan(tmp_path, "stage", 23, resources=runs.SIZE)
    held = chains.cluster("slurm", resource_profiles={"small": runs.SMALL}, slurm={"extra": {"hold": True}})
    runs.submit(tmp_path, [plan], held)
    (attempt,) = attempts.read(plan.path)
    told = slurm.call("scontrol", "show", "job", "-o", attempt.finaliser)
    cancellation.cancel(plan.path.parent)
    assert [len(array.tasks) for array in attempt.arrays] == [5, 5, 5, 5, 3]
    assert all(f"afterany:{array.job}_*" in told for array in attempt.arrays)


@pytest.mark.row(
    18,
    promise="what exceeds the limit follows in waves, elementwise edges included; all of it ends",
    injected="MaxSubmitJobs=9 of the association and 7 of the QOS for 12 + 12 + 1 tasks and their finalisers",
    daemons="real",
)
@pytest.mark.parametrize(("association", "qos"), [(11, None), (-1, 10)], ids=["association", "qos"])
def test_row_18_more_tasks_than_may_be_submitted_run_in_waves(
    tmp_path: Path, devcluster_with: Start, association: int, qos: int | None
) -> None:
    cluster = limited(devcluster_with)
    cluster.limit(MaxSubmitJobs=association)
    if qos:
        cluster.qos("narrow", MaxSubmitJobsPerUser=qos)
    on = chains.cluster("slurm", resource_profiles={"small": runs.SMALL}, slurm={"qos": "narrow"} if qos else {})
    plans = [chains.plan(tmp_path, "first", 12, resources=runs.SIZE)]
    plans.append(chains.plan(tmp_path, "pairs", 12, resources=runs.SIZE, after=(Edge("first", elementwise=True),)))
    plans.append(chains.plan(tmp_path, "last", 1, resources=runs.SIZE, after=(Edge("pairs"),)))
    try:
        told = runs.submit(tmp_path, plans, on)
        assert told[0].tasks + told[0].later == 12 and told[0].later > 0
        runs.finished(plans)
    finally:
        cluster.limit(MaxSubmitJobs=-1)
    runs.whole(*plans)
    for plan in plans[:2]:
        tasks = [
            task_index for attempt in attempts.read(plan.path) for array in attempt.arrays for task_index in array.tasks
        ]
        assert sorted(tasks) == list(range(12))  # each once
        assert set().union(*(attempt.spent.values() for attempt in attempts.read(plan.path))) <= {0}
    assert "the submit limit left no room for it before" in " ".join(runs.why(plans[0]))


@pytest.mark.row(
    18,
    promise="no room at all is an error with the limit's name, and nothing is submitted",
    injected="MaxSubmitJobs=3 for a chain that needs more",
    daemons="real",
)
def test_row_18_no_room_is_told_before_anything_is_submitted(tmp_path: Path, devcluster_with: Start) -> None:
    cluster = limited(devcluster_with)
    cluster.limit(MaxSubmitJobs=3)
    plans = [chains.plan(tmp_path, "first", 2, resources=runs.SIZE)]
    plans += [chains.plan(tmp_path, "last", 2, resources=runs.SIZE, after=(Edge("first"),))]
    try:
        with pytest.raises(UserError, match=r"MaxSubmitJobs of account .* is 3"):
            runs.submit(tmp_path, plans)
        assert runs.queued(tmp_path.name) == []
    finally:
        cluster.limit(MaxSubmitJobs=-1)


@pytest.mark.row(
    19,
    promise="what follows a failed stage is cancelled with a message; nothing stays pending; a retry of the stage runs all of it",
    injected="a first stage that fails, followed as a whole and unit by unit",
    daemons="real",
)
def test_row_19_what_cannot_run_any_more_is_cancelled_and_told(tmp_path: Path, devcluster: DevCluster) -> None:
    plans = [chains.plan(tmp_path, "first", 2, resources=runs.SIZE, settings={"mishaps": {"00001": ["exit 3"] * 2}})]
    plans.append(chains.plan(tmp_path, "pairs", 2, resources=runs.SIZE, after=(Edge("first", elementwise=True),)))
    plans.append(chains.plan(tmp_path, "last", 1, resources=runs.SIZE, after=(Edge("pairs"),)))
    on = runs.CLUSTER.model_copy(update={"max_attempts": 2})
    runs.submit(tmp_path, plans, on)
    runs.finished(plans)
    first, pairs, last = plans
    assert [plan.missing() for plan in plans] == [["00001"], ["00001"], ["00000"]]
    assert "2 attempts, the limit of this cluster" in runs.summary(first)["why"]
    for plan in (pairs, last):
        assert runs.summary(plan)["state"] == "failed" and "a stage before it failed" in runs.summary(plan)["why"]
    assert len(runs.executions(first, 1)) == 2 and runs.executions(last, 0) == []
    answer = executor.query(first.path.parent)
    run = snapshot(first.path.parent, answer)
    assert run.state == "failed" and not any(stage.running for stage in run.stages)
    assert [row.stage for row in chain.retry(plans, first, on, {}, "")] == ["first", "pairs", "last"]
    runs.finished(plans)
    runs.whole(*plans)


@pytest.mark.row(
    20,
    promise="a task that parks at its time limit again and again without one more record is stopped, and says so",
    injected="the warning signal before the first record of every execution",
    daemons="real",
)
def test_row_20_a_task_that_never_gets_on_is_stopped(tmp_path: Path, devcluster: DevCluster) -> None:
    plan = chains.plan(tmp_path, "stage", 2, settings={"records": 1, "startup": 3}, resources=runs.size(minutes=1))
    runs.submit(tmp_path, [plan])
    job = attempts.read(plan.path)[0].arrays[0].job
    for count in range(1, 4):
        runs.until(lambda: len(runs.executions(plan, 1)) == count, f"execution {count}")  # noqa: B023
        runs.until(lambda: "attempt" in runs.newest_log(plan, 1), "it has begun")
        time.sleep(0.5)
        slurm.call("scancel", "-s", "USR2", f"{job}_1")
    runs.finished([plan])
    assert plan.missing() == ["00001"] and len(runs.executions(plan, 1)) == 3
    assert "reached its time limit 3 times without finishing one more record" in runs.summary(plan)["why"]


@pytest.mark.row(
    20,
    promise="jobs that are held are shown with the reason, and released by a retry of their stage; then the chain ends",
    injected="RequeueExitHold: held by Slurm after an exit code (SPECIAL_EXIT); scontrol hold by an operator (JobHeldAdmin)",
    daemons="real",
)
def test_row_20_held_jobs_are_told_and_released(tmp_path: Path, devcluster_with: Start) -> None:
    devcluster_with(accounting=True, extra="RequeueExitHold=42;MaxArraySize=100")
    first = chains.plan(tmp_path, "first", 2, settings={"mishaps": {"00001": ["exit 42"]}}, resources=runs.SIZE)
    second = chains.plan(tmp_path, "second", 2, resources=runs.SIZE, after=(Edge("first"),))
    runs.submit(tmp_path, [first, second])
    slurm.call("scontrol", "hold", attempts.read(second.path)[0].arrays[0].job)

    def reasons() -> list[list[str]]:
        answer = executor.query(first.path.parent)
        return [list(s.reasons) for s in snapshot(first.path.parent, answer).stages]

    runs.until(lambda: reasons() == [["JobHeldUser"], ["JobHeldAdmin"]], "held", 100)
    for plan, count in ((first, 1), (second, 2)):
        (told,) = chain.retry([first, second], plan, runs.CLUSTER, {}, "")
        assert (told.state, len(told.jobs)) == ("released", count)
    runs.finished([first, second])
    runs.whole(first, second)
    assert len(runs.executions(first, 1)) == 2
    assert [runs.why(plan) for plan in (first, second)] == [["submitted"]] * 2


@pytest.mark.row(
    21,
    promise="another job under the id of one of ours is neither waited for, nor cancelled, nor taken for its end",
    injected="MaxJobId: ids come round, and other people's jobs get those of a run",
    daemons="real",
)
def test_row_21_ids_that_come_round_are_not_mixed_up(tmp_path: Path, devcluster_with: Start) -> None:
    devcluster_with(accounting=True, extra="FirstJobId=100;MaxJobId=140;MinJobAge=2")
    plan = chains.plan(tmp_path, "stage", 1, settings={"fail": "00000"}, resources=runs.SIZE)
    runs.submit(tmp_path, [plan], runs.CLUSTER.model_copy(update={"max_attempts": 1}))
    runs.finished([plan])
    assert len(attempts.read(plan.path)) == 1
    (ours, finaliser) = attempts.read(plan.path)[0].jobs
    mine = ["sbatch", "--parsable", "-p", "cpu", "--mem=20", "-o", "/dev/null", "--wrap", "sleep 120"]
    theirs: set[str] = set()

    def come_round() -> bool:
        job = slurm.call(*mine).strip()
        if job in (ours, finaliser):
            theirs.add(job)
        else:
            slurm.cancel([job])
        return {ours, finaliser} == theirs

    runs.until(come_round, "the ids of the run are another's")
    try:
        assert chain.live_attempt(plan) is None
        assert causes.last_jobs(plan, [0])[0].state in ("FAILED", "UNKNOWN")  # ours, or not known; theirs runs
        assert cancellation.cancel(plan.path.parent) == []
        assert {job.id for job in slurm.queue()} >= {ours, finaliser}
        told = runs.submit(tmp_path, [plan])
        assert [row.state for row in told] == ["submitted"] and not {*told[0].jobs} & {ours, finaliser}
    finally:
        slurm.cancel(sorted(theirs))
    runs.finished([plan])
