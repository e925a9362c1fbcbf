"""The screens beside real daemons: what they say agrees with Slurm at every moment, and with the files at the end."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from diagcot.console.screens import failures
from diagcot.console.state import executor
from diagcot.console.state.remarks import remarks
from diagcot.console.state.run import Run
from diagcot.console.state.status import snapshot
from diagcot.jobs import chain, pipeline
from diagcot.jobs.cluster import Size
from diagcot.jobs.forecast import forecast
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.state import attempts
from tests import chains
from tests.chains import Edge

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("devcluster")]
CLUSTER = chains.cluster(
    "slurm", resource_profiles={"small": {"partition": "cpu", "minutes": 5, "mem_gb": 0.5}}, warning_seconds=20
)
SIZE = Size(partition="cpu", minutes=5, mem_gb=0.5)


def look(run_dir: Path) -> Run:
    answer = executor.query(run_dir)
    assert answer.note == ""
    return snapshot(run_dir, answer)


def until(run_dir: Path, ready: Callable[[Run], bool], seconds: float = 90) -> Run:
    end = time.monotonic() + seconds
    while not ready(run := look(run_dir)):
        assert time.monotonic() < end, [(s.name, s.state, s.reasons) for s in run.stages] + slurm.queue()
        time.sleep(0.3)
    return run


def test_a_chain_is_seen_running_waiting_and_done(shared_path: Path) -> None:
    slow = {"seconds": 0.5, "records": 10}
    first = chains.plan(shared_path, "first", 3, resources=SIZE, settings=slow)
    second = chains.plan(shared_path, "second", 3, resources=SIZE, after=(Edge("first"),))
    run_dir = chains.write(shared_path, [first, second], CLUSTER)
    chain.submit_chain([first, second], {"first", "second"}, CLUSTER)
    run = until(run_dir, lambda run: run.stages[0].running > 0 and run.stages[0].fraction > 0)
    assert (run.stages[1].state, run.stages[1].pending) == ("pending", 3)
    assert dict(run.stages[1].reasons) == {"Dependency": 3}
    assert run.state == "running"
    run = until(run_dir, lambda run: run.state == "done")
    assert [stage.done for stage in run.stages] == [3, 3]
    assert run.stages[0].elapsed and run.stages[0].elapsed > 5


def test_what_is_held_is_told_and_let_go_by_a_retry(shared_path: Path) -> None:
    plan = chains.plan(shared_path, "first", 2, resources=SIZE)
    run_dir = chains.write(shared_path, [plan], CLUSTER)
    slurm.call("scontrol", "update", "PartitionName=cpu", "State=DOWN")  # so that nothing starts before it is held
    try:
        chain.submit_chain([plan], {"first"}, CLUSTER)
        (array,) = attempts.read(plan.path)[0].arrays
        slurm.call("scontrol", "hold", f"{array.job}_1")
    finally:
        slurm.call("scontrol", "update", "PartitionName=cpu", "State=UP")
    run = until(run_dir, lambda run: run.stages[0].done == 1)
    assert f"`make retry STAGE=first RUN={shared_path.name}` releases it (JobHeldAdmin)" in "\n".join(remarks(run))
    (released,) = pipeline.retry_stage(run_dir, "first")
    assert released.state == "released"
    until(run_dir, lambda run: run.state == "done")


def test_a_plan_is_forecast_and_nothing_is_submitted(shared_path: Path) -> None:
    fits = chains.plan(shared_path, "first", 3, resources=SIZE)
    wide = chains.plan(shared_path, "second", 1, resources=SIZE.model_copy(update={"nodes": 9}), after=(Edge("first"),))
    found = forecast([fits, wide], CLUSTER, {})
    assert found.limits is not None and found.limits.array_size > 100
    assert found.starts["first"].startswith("20")
    assert found.warnings == ["second: could never start: asks for 9 nodes, cpu has 2"]
    assert found.unknown == []
    assert not any(job.name.startswith(shared_path.name) for job in slurm.queue())


def test_a_failure_is_shown_once_with_its_traceback(shared_path: Path) -> None:
    plan = chains.plan(shared_path, "first", 3, resources=SIZE, settings={"fail": "all"})
    run_dir = chains.write(shared_path, [plan], CLUSTER)
    chain.submit_chain([plan], {"first"}, CLUSTER)
    run = until(run_dir, lambda run: run.stages[0].failed == 3 and not slurm.queue())
    found = list(failures.failures(run.stages[0]))
    assert [(f.kind, f.units) for f in found] == [("RuntimeError", 3)]
    assert "count.py" in found[0].where[-1]
    assert found[0].log is not None
