"""What sbatch prints, and plans of a million units: rows 33 and 34."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from diagcot.console.state import executor
from diagcot.console.state.status import snapshot
from diagcot.jobs import chain
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.slurm import submit as submission
from diagcot.jobs.state import attempts
from diagcot.jobs.state.attempts import Array
from tests import chains
from tests.faults import runs

# What job_submit plugins, prologs and federations print around sbatch's own line.
NOISE = st.sampled_from(
    [
        "sbatch: warning: can't honor --ntasks-per-node set to 1 which doesn't match the requested tasks 4",
        "sbatch: lua: job 123 was changed: partition gpu instead of gpu-long",
        "Your last job 4711 used 3 % of its memory.",
        "--------------------------------------------------",
        "No account given: charged to job group 99",
        "sbatch: Verify job submission: 8 nodes, see job 77",
        "",
        "Welcome. 12 jobs are ahead of you",
    ]
)
CLUSTERS = st.from_regex(r"[a-z][a-z0-9_-]{0,11}", fullmatch=True)


@st.composite
def answers(draw: st.DrawFn) -> tuple[str, str]:
    """(what sbatch prints, the id that it means)."""
    job = str(draw(st.integers(1, 67_043_327)))
    line = draw(
        st.sampled_from([f"Submitted batch job {job}", f"Submitted batch job {job} on cluster @", job, f"{job};@"])
    )
    before, after = draw(st.lists(NOISE, max_size=3)), draw(st.lists(NOISE, max_size=2))
    return "\n".join([*before, line.replace("@", draw(CLUSTERS)), *after]) + draw(st.sampled_from(["", "\n"])), job


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An sbatch that prints the content of a file; there is no other command of Slurm's."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "srun"):
        (folder / name).write_text(f"#!/bin/sh\nexec cat {tmp_path}/answer\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    yield tmp_path / "answer"


@pytest.mark.row(
    33,
    promise="the id is that of sbatch's own line, whatever warnings and ids of other jobs are printed around it",
    injected="answers made of warnings, plain and parsable ids, and names of clusters",
    daemons="simulated",
)
@given(answers())
@example(("sbatch: lua: job 1 was changed\nSubmitted batch job 5658113 on cluster faculty\n", "5658113"))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_row_33_the_id_is_found_in_what_sbatch_prints(tmp_path: Path, sbatch: Path, answer: tuple[str, str]) -> None:
    text, job = answer
    sbatch.write_text(text)
    root = tmp_path / f"run{time.monotonic_ns()}"
    plan = chains.plan(root, "stage", 1)
    chains.write(root, [plan], runs.CLUSTER)
    array = Array("", (0,), resources=plan.resources.model_dump())
    made = submission.submit(plan, runs.CLUSTER, [array], "submitted", None)
    assert made.arrays[0].job == job
    assert attempts.read(plan.path)[0].arrays[0].job == job
    assert (plan.path / "slurm" / f"{made.arrays[0].name}.sbatch").read_text() == (plan.path / "job.sbatch").read_text()


@pytest.mark.row(
    33,
    promise="an answer without an id is an error that shows the answer, not a job",
    injected="sbatch that prints warnings only and ends well",
    daemons="simulated",
)
def test_row_33_an_answer_without_an_id_is_an_error(
    tmp_path: Path, sbatch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sbatch.write_text("Your last job 4711 used 3 % of its memory.\n")
    monkeypatch.setattr(slurm, "named", lambda name: [])
    plan = chains.plan(tmp_path, "stage", 1)
    chains.write(tmp_path, [plan], runs.CLUSTER)
    array = Array("", (0,), resources=plan.resources.model_dump())
    with pytest.raises(slurm.SlurmError, match="4711 used 3 %"):
        submission.submit(plan, runs.CLUSTER, [array], "submitted", None)
    assert attempts.read(plan.path) == []


@pytest.mark.slurm
@pytest.mark.heavy
@pytest.mark.usefixtures("devcluster")
@pytest.mark.row(
    34,
    promise="as many sbatch, squeue and sacct as for ten units, scripts of the same size, a look in seconds",
    injected="a stage of 1,000,000 units compared with one of 10",
    daemons="real",
)
def test_row_34_a_million_units_cost_no_more_calls_than_ten(tmp_path: Path) -> None:
    on = chains.cluster("slurm", resource_profiles={"small": runs.SMALL}, slurm={"extra": {"hold": True}})
    calls, scripts, looks = {}, {}, {}
    for count in (10, 1_000_000):
        root = tmp_path / f"n{count}"
        plan = chains.plan(root, "stage", count, tasks=min(count, 4000), resources=runs.SIZE)
        run_dir = chains.write(root, [plan], on)
        with pytest.MonkeyPatch.context() as patch:
            for command in ("sbatch", "squeue", "sacct", "scontrol"):
                runs.shim(root / "bin", command, "", patch)
            try:
                chain.submit_chain([plan], {"stage"}, on)
                began = time.monotonic()
                answer = executor.query(run_dir)
                seen = snapshot(run_dir, answer).stages[0]
                looks[count] = time.monotonic() - began
            finally:
                slurm.cancel(attempts.read(plan.path)[0].jobs)
        assert (seen.units, seen.pending, answer.note) == (count, count, "")
        assert seen.tasks == min(count, 4000)
        calls[count] = {file.stem: len(file.read_text().splitlines()) for file in (root / "bin").glob("*.calls")}
        scripts[count] = len((plan.path / "job.sbatch").read_text())
    assert calls[1_000_000] == calls[10] and calls[10]["sbatch"] == 2
    assert abs(scripts[1_000_000] - scripts[10]) < 60  # digits of names and of --array
    assert looks[1_000_000] < 20
