"""Accounting that is late, away, purged or not there at all: rows 11 and 12."""

from collections.abc import Callable
from pathlib import Path

import pytest

from diagcot.console.state import executor
from diagcot.console.state.status import snapshot
from diagcot.jobs import Plan, causes
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.state import attempts
from tests import chains
from tests.chains import Edge
from tests.conftest import DevCluster
from tests.faults import runs

pytestmark = pytest.mark.slurm
Start = Callable[..., DevCluster]
MISHAPS = {"mishaps": {"00001": ["exit 3"], "00002": ["exit 137"]}}


def two_stages(root: Path) -> list[Plan]:
    first = chains.plan(root, "first", 3, resources=runs.SIZE, settings=MISHAPS)
    return [first, chains.plan(root, "second", 2, resources=runs.SIZE, after=(Edge("first"),))]


@pytest.mark.row(
    11,
    promise="the finaliser waits for jobs that have ended and are not in accounting yet, then decides by their real end",
    injected="sacct that knows nothing in its first three answers to the finaliser",
    daemons="simulated",
)
def test_row_11_an_end_that_is_told_late_is_waited_for(
    tmp_path: Path, devcluster: DevCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans, seen = two_stages(tmp_path), tmp_path / "seen"
    late = f"if {runs.IN_A_JOB}; then echo >> {seen}; [ $(wc -l < {seen}) -gt 3 ] || exit 0; fi"
    runs.shim(tmp_path / "bin", "sacct", late, monkeypatch)
    runs.submit(tmp_path, plans)
    runs.finished(plans)
    runs.whole(*plans)
    assert sorted(runs.why(plans[0])[1].split("; ")) == [
        "failed: tried once more",
        "out of memory: runs again with more",
    ]
    assert len(seen.read_text().splitlines()) > 3  # it was asked until it knew


@pytest.mark.row(
    11,
    promise="without an answer an end is unknown: no failure, no success; what is not done is tried again, within the"
    " limit of attempts; the chain continues",
    injected="slurmdbd is killed before the run and comes back after it",
    daemons="real",
)
def test_row_11_without_slurmdbd_an_end_is_unknown(tmp_path: Path, devcluster: DevCluster) -> None:
    plans = two_stages(tmp_path)
    devcluster("kill-dbd")
    try:
        runs.submit(tmp_path, plans)
        runs.until(lambda: (plans[0].path / "done" / "00000.json").exists(), "a unit is done")
        answer = executor.query(plans[0].path.parent)
        run = snapshot(plans[0].path.parent, answer)
        assert not any(stage.failed for stage in run.stages)
        runs.finished(plans)
    finally:
        devcluster("restart-dbd")
    runs.whole(*plans)
    first = attempts.read(plans[0].path)
    assert len(first) == 2 and first[1].arrays[0].tasks == (1, 2)
    assert first[1].why == "2 × Slurm does not report why it ended"


@pytest.mark.row(
    12,
    promise="files decide what is done; retries are bounded; the chain and its screens work",
    injected="AccountingStorageType=none, a task that fails once and one that always does",
    daemons="real",
)
def test_row_12_without_accounting_files_decide(tmp_path: Path, devcluster_with: Start) -> None:
    devcluster_with(accounting=False)
    good = two_stages(tmp_path / "good")
    bad = chains.plan(
        tmp_path / "bad", "stage", 2, resources=runs.SIZE, settings={"mishaps": {"00001": ["exit 3", "..."]}}
    )
    runs.submit(tmp_path / "good", good)
    runs.submit(tmp_path / "bad", [bad])
    runs.finished(good)
    runs.finished([bad])
    runs.whole(*good)
    assert bad.missing() == ["00001"]
    assert len(runs.executions(bad, 1)) == runs.CLUSTER.max_attempts and len(runs.executions(bad, 0)) == 1
    assert "3 attempts, the limit of this cluster, have not finished it" in runs.summary(bad)["why"]
    for plan, states in ((good[0], ("done",)), (bad, ("failed", "unknown"))):
        answer = executor.query(plan.path.parent)
        assert snapshot(plan.path.parent, answer).state in states


@pytest.mark.row(
    12,
    promise="a job that began before midnight is found: every query names a start time",
    injected="sacct that knows only today's jobs unless it is asked for earlier ones",
    daemons="simulated",
)
def test_row_12_a_job_of_yesterday_is_found(
    tmp_path: Path, devcluster: DevCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = two_stages(tmp_path)
    forgetful = 'case " $* " in *" -S now-"*|*" --starttime"*) ;; *) exit 0 ;; esac'
    runs.shim(tmp_path / "bin", "sacct", forgetful, monkeypatch)
    runs.submit(tmp_path, plans)
    runs.finished(plans)
    runs.whole(*plans)
    assert "UNKNOWN" not in runs.why(plans[0])[1] and "out of memory" in runs.why(plans[0])[1]
    assert (tmp_path / "bin" / "sacct.calls").exists()


@pytest.mark.row(
    12,
    promise="what accounting has purged is unknown; what is done stays done, the rest is submitted again",
    injected="sacct that knows no job at all, as after a purge",
    daemons="simulated",
)
def test_row_12_after_a_purge_files_decide(
    tmp_path: Path, devcluster: DevCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(causes, "LAG_S", 1)
    plans = two_stages(tmp_path)
    runs.submit(tmp_path, plans[:1])
    runs.finished(plans[:1])
    done = {path.name: path.stat().st_mtime_ns for path in (plans[0].path / "done").iterdir()}
    runs.shim(tmp_path / "bin", "sacct", "exit 0", monkeypatch)
    assert {job.state for job in causes.last_jobs(plans[0], [0, 1, 2]).values()} == {"UNKNOWN"}
    assert [row.state for row in runs.submit(tmp_path, plans)] == ["complete", "submitted"]
    runs.finished(plans)
    runs.whole(*plans)
    assert {path.name: path.stat().st_mtime_ns for path in (plans[0].path / "done").iterdir()} == done


def test_elements_that_a_person_cancels_before_they_start_stay_cancelled(
    tmp_path: Path, devcluster: DevCluster
) -> None:
    held = chains.cluster("slurm", resource_profiles={"small": runs.SMALL}, slurm={"extra": {"hold": True}})
    plan = chains.plan(tmp_path, "stage", 4, resources=runs.SIZE)
    runs.submit(tmp_path, [plan], held)
    (attempt,) = attempts.read(plan.path)
    slurm.cancel([attempt.arrays[0].job])  # sacct tells all four in one row, `7_[0-3]`
    slurm.release(attempt.finaliser)
    runs.finished([plan])
    assert runs.why(plan) == ["submitted"]
    assert runs.summary(plan)["why"] == "4 × cancelled by a person: not retried automatically"
