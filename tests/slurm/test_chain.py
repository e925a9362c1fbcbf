"""Chains on real daemons: dependencies alone link the stages; failures, retries and cancelled jobs."""

import json
import time
from pathlib import Path

import pytest

from diagcot.jobs import Plan, UserError, chain, retry_stage
from diagcot.jobs.cluster import Size
from diagcot.jobs.plans.plan import pack
from diagcot.jobs.slurm import cancellation
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.state import attempts
from tests import chains
from tests.chains import Edge

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("devcluster")]
CLUSTER = chains.cluster(
    "slurm", resource_profiles={"small": {"partition": "cpu", "minutes": 5, "mem_gb": 0.5}}, warning_seconds=20
)
SIZE = Size(partition="cpu", minutes=5, mem_gb=0.5)


def finished(run: list[Plan], seconds: float = 90) -> None:
    """Wait until no job of the run is left, retries that finalisers submit included."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        jobs = {job: name for plan in run for made in attempts.read(plan.path) for job, name in made.names.items()}
        if not slurm.alive(jobs):
            return
        time.sleep(0.5)
    raise AssertionError(f"jobs left after {seconds} s: {slurm.queue()}")


def submit(root: Path, run: list[Plan]) -> list[chain.Submitted]:
    chains.write(root, run, CLUSTER)
    return chain.submit_chain(run, {plan.stage for plan in run}, CLUSTER)


def summary(plan: Plan) -> dict[str, object]:
    return json.loads((plan.path / "summary.json").read_text())  # type: ignore[no-any-return]


def test_a_chain_of_arrays_runs_by_dependencies_alone(shared_path: Path) -> None:
    first = chains.plan(shared_path, "first", 3, resources=SIZE)
    second = chains.plan(shared_path, "second", 3, resources=SIZE, after=(Edge("first", elementwise=True),))
    third = chains.plan(shared_path, "third", 1, resources=SIZE, after=(Edge("second"),))
    told = submit(shared_path, [first, second, third])
    assert [row.state for row in told] == ["submitted"] * 3
    assert "aftercorr" in attempts.read(second.path)[0].arrays[0].after
    assert "#SBATCH --array=0-2%3" in (first.path / "job.sbatch").read_text()
    again = submit(shared_path, [first, second, third])
    assert {row.state for row in again} <= {"queued", "complete"}  # nothing is submitted twice
    finished([first, second, third])
    for plan in (first, second, third):
        assert not plan.missing()
        assert summary(plan)["state"] == "done"
    assert [row.state for row in submit(shared_path, [first, second, third])] == ["complete"] * 3


def test_a_failed_stage_is_tried_again_then_stops_the_chain(shared_path: Path) -> None:
    first = chains.plan(shared_path, "first", 2, resources=SIZE, settings={"fail": "00001"})
    second = chains.plan(shared_path, "second", 1, resources=SIZE, after=(Edge("first"),))
    submit(shared_path, [first, second])
    finished([first, second])
    assert first.missing() == ["00001"] and second.missing() == ["00000"]
    assert len(attempts.read(first.path)) == 2  # the same exception twice: no third time
    assert summary(first)["state"] == "failed"
    assert not slurm.queue()  # nothing is left pending for ever


def test_after_a_retry_the_element_wise_dependents_run_too(shared_path: Path) -> None:
    first = chains.plan(shared_path, "first", 3, resources=SIZE, settings={"fail_once": "00001"})
    second = chains.plan(shared_path, "second", 3, resources=SIZE, after=(Edge("first", elementwise=True),))
    third = chains.plan(shared_path, "third", 1, resources=SIZE, after=(Edge("second"),))
    submit(shared_path, [first, second, third])
    finished([first, second, third], 150)
    assert [plan.missing() for plan in (first, second, third)] == [[], [], []]
    assert [len(attempts.read(plan.path)) for plan in (first, second, third)] == [2, 2, 1]
    assert attempts.read(second.path)[1].arrays[0].tasks == (1,)  # only the element that was held back
    assert attempts.read(second.path)[1].arrays[0].after == f"afterok:{attempts.read(first.path)[1].arrays[0].job}"
    assert "failed" in attempts.read(first.path)[1].why and "partner" in attempts.read(second.path)[1].why


def test_a_retry_releases_the_held_finaliser_of_a_stage_whose_units_are_done(shared_path: Path) -> None:
    """The next stage waits for that finaliser; a retry of a stage that has ended has nothing to do."""
    first = chains.plan(shared_path, "first", 1, resources=SIZE)
    second = chains.plan(shared_path, "second", 1, resources=SIZE, after=(Edge("first"),))
    submit(shared_path, [first, second])
    finaliser = attempts.read(first.path)[0].finaliser
    slurm.call("scontrol", "hold", finaliser)
    end = time.monotonic() + 60
    while first.missing() and time.monotonic() < end:
        time.sleep(0.2)
    assert not first.missing() and not (first.path / "summary.json").exists()
    (released,) = retry_stage(first.path.parent, "first")
    assert (released.state, released.jobs) == ("released", (finaliser,))
    finished([first, second])
    assert not second.missing() and summary(first)["state"] == "done"
    with pytest.raises(UserError, match="is complete: there is nothing to run again"):
        retry_stage(first.path.parent, "first")


def test_two_nodes_run_one_task(shared_path: Path) -> None:
    multi = chains.plan(
        shared_path,
        "multi",
        1,
        tasks=pack(1, 0, 60, 60),
        resources=Size(partition="gpu", nodes=2, gpus=1, minutes=5, mem_gb=0.5),
    )
    submit(shared_path, [multi])
    finished([multi])
    assert not multi.missing()
    logs = sorted(p.name for p in (multi.path / "out").glob("*.log"))
    assert len(logs) == 2 and logs[1].endswith(".r1.log")


def test_the_warning_signal_parks_and_requeues_this_element_only(shared_path: Path) -> None:
    slow = {"records": 30, "seconds": 0.3}
    plan = chains.plan(shared_path, "slow", 3, resources=SIZE, settings=slow)
    submit(shared_path, [plan])
    array = attempts.read(plan.path)[0].arrays[0].job
    end = time.monotonic() + 30
    while len(list((plan.path / "partial").glob("*.jsonl"))) < 3 and time.monotonic() < end:
        time.sleep(0.2)
    time.sleep(1)
    slurm.call("scancel", "-s", "USR2", f"{array}_2")
    finished([plan], 120)
    assert not plan.missing()
    assert sorted(p.name.split(".")[1] for p in (plan.path / "out").glob("*.log")) == sorted(
        [f"{array}_0-0", f"{array}_1-0", f"{array}_2-0", f"{array}_2-1"]
    )
    lines = (plan.output / "00002.txt").read_text().splitlines()
    assert len(lines) == len(set(lines)) == 30


def test_a_person_who_cancels_is_obeyed(shared_path: Path) -> None:
    first = chains.plan(shared_path, "first", 1, resources=SIZE, settings={"records": 100, "seconds": 0.5})
    second = chains.plan(shared_path, "second", 1, resources=SIZE, after=(Edge("first"),))
    submit(shared_path, [first, second])
    time.sleep(3)
    assert cancellation.cancel(first.path.parent)
    finished([first, second])
    assert len(attempts.read(first.path)) == 1 and first.missing()
    assert [row.state for row in submit(shared_path, [first, second])] == ["submitted"] * 2  # and it can go on
    cancellation.cancel(first.path.parent)
    finished([first, second])


def test_an_element_that_a_person_cancels_is_left_alone_pending_or_running(shared_path: Path) -> None:
    size = SIZE.model_copy(update={"array_parallelism": 2})
    plan = chains.plan(shared_path, "some", 4, resources=size, settings={"records": 12, "seconds": 0.2})
    submit(shared_path, [plan])
    job = attempts.read(plan.path)[0].arrays[0].job
    end = time.monotonic() + 30
    while len(list((plan.path / "partial").glob("*.jsonl"))) < 2 and time.monotonic() < end:
        time.sleep(0.2)
    slurm.cancel([f"{job}_1", f"{job}_2"])  # one that runs, and one of whose end Slurm keeps no record
    finished([plan], 120)
    assert plan.missing() == ["00001", "00002"] and len(attempts.read(plan.path)) == 1
    assert summary(plan)["state"] == "failed" and "scancel" in str(summary(plan)["why"])
