"""A slurmctld that is away, or answers too late, and launchers that are killed: rows 13, 14 and 32."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from diagcot.console.state import executor
from diagcot.console.state.status import snapshot
from diagcot.jobs import Plan, chain
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.slurm import submit as submission
from diagcot.jobs.state import attempts
from tests import chains
from tests.chains import Edge
from tests.conftest import DevCluster
from tests.faults import runs

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("devcluster")]
LATE = 'echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2; exit 1'


def two_stages(root: Path, **more: Any) -> list[Plan]:
    first = chains.plan(root, "first", 2, resources=runs.SIZE, **more)
    return [first, chains.plan(root, "second", 2, resources=runs.SIZE, after=(Edge("first"),), **more)]


def once(*plans: Plan) -> None:
    """Slurm knows every array and finaliser of these stages, and each of them once."""
    made = [item for plan in plans for attempt in attempts.read(plan.path) for item in attempt.names.items()]
    assert runs.accepted(plans[0].run) == sorted(made)
    assert len({name for _, name in made}) == len(made)


HELD = chains.cluster("slurm", resource_profiles={"small": runs.SMALL}, slurm={"extra": {"hold": True}})


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Callable[[str], list[Plan]]]:
    """Makes runs whose jobs stay in the queue; all of them are cancelled at the end."""
    made: list[str] = []

    def make(name: str) -> list[Plan]:
        made.append(f"{tmp_path.name}-{name}")  # no run of that name was there before
        plans = two_stages(tmp_path / made[-1])
        chains.write(tmp_path / made[-1], plans, HELD)
        return plans

    yield make
    slurm.cancel([job.id for name in made for job in runs.queued(name)])


ENDS = {"refuses": "exit 1", "times out": LATE, "hangs": "sleep 40; exit 1"}


def ends_badly(root: Path, end: str, call: int, patch: pytest.MonkeyPatch) -> None:
    """The sbatch number `call` under `root` hands its job over, and then goes wrong."""
    patch.setattr(submission, "SBATCH_S", 5)
    runs.shim(root / "bin", "sbatch", f'if [ $N = {call} ]; then "$REAL" "$@" > /dev/null; {ENDS[end]}; fi', patch)


@pytest.mark.row(
    14,
    promise="the job that was accepted is found by its name and adopted: every array and finaliser exists once",
    injected="sbatch that hands its job over and then ends by 1, reports a timeout, or hangs, at each submission in turn",
    daemons="real",
)
@pytest.mark.parametrize("call", [1, 2, 3, 4])
@pytest.mark.parametrize("end", ENDS)
def test_row_14_a_job_that_was_accepted_is_adopted(
    held: Callable[[str], list[Plan]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, call: int
) -> None:
    plans = held("adopted")
    ends_badly(tmp_path, end, call, monkeypatch)
    assert [row.state for row in chain.submit_chain(plans, {"first", "second"}, HELD)] == ["submitted"] * 2
    once(*plans)
    assert len((tmp_path / "bin" / "sbatch.calls").read_text().splitlines()) == 4


@pytest.mark.row(
    14,
    promise="the run of an adopted job ends as an undisturbed one does",
    injected="as before, while the jobs already start",
    daemons="real",
)
def test_row_14_adopted_jobs_run_once(tmp_path: Path) -> None:
    made = []
    for call, end in enumerate(ENDS, 1):
        with pytest.MonkeyPatch.context() as patch:
            ends_badly(tmp_path / end, end, call, patch)
            made.append(two_stages(tmp_path / end.replace(" ", "-")))
            runs.submit(tmp_path / end.replace(" ", "-"), made[-1])
    for plans in made:
        runs.finished(plans)
        once(*plans)
        runs.whole(*plans)
        assert [runs.why(plan) for plan in plans] == [["submitted"]] * 2


@pytest.mark.row(
    14,
    promise="a job that was accepted and has ended already is found by its name",
    injected="the job ends before it is looked up, and accounting has not heard of it",
    daemons="real",
)
def test_row_14_a_job_that_has_ended_is_found(tmp_path: Path, devcluster: DevCluster) -> None:
    name = f"{tmp_path.name}.ended"
    devcluster("kill-dbd")
    try:
        command = ["sbatch", "--parsable", "--partition", "cpu", "--job-name", name, "--output", "/dev/null"]
        job = slurm.call(*command, "--wrap", "true").strip()
        runs.until(lambda: name not in {queued.name for queued in slurm.queue()}, "its end")
        assert slurm.named(name) == [job]
    finally:
        devcluster("restart-dbd")


@pytest.mark.row(
    13,
    promise="submission waits for slurmctld and then submits everything once; status says that Slurm does not answer,"
    " and calls nothing failed",
    injected="slurmctld is killed before and restarted in the middle of a submission",
    daemons="real",
)
def test_row_13_a_submission_waits_for_slurmctld(
    tmp_path: Path, devcluster: DevCluster, held: Callable[[str], list[Plan]]
) -> None:
    other, plans = held("other"), two_stages(tmp_path)
    chain.submit_chain(other, {"first", "second"}, HELD)
    chains.write(tmp_path, plans, runs.CLUSTER)
    told: list[Any] = []
    submitting = threading.Thread(
        target=lambda: told.extend(chain.submit_chain(plans, {"first", "second"}, runs.CLUSTER))
    )
    devcluster("kill-ctld")
    try:
        submitting.start()
        time.sleep(4)
        run_dir = other[0].path.parent
        answer = executor.query(run_dir)
        run = snapshot(run_dir, answer)
        assert answer.note and not any(stage.failed for stage in run.stages)
    finally:
        devcluster("restart")
    submitting.join(runs.PATIENCE_S)
    assert [row.state for row in told] == ["submitted"] * 2
    once(*plans)
    runs.finished(plans)
    runs.whole(*plans)


@pytest.mark.row(
    13,
    promise="jobs run on, and the chain continues when slurmctld is back",
    injected="slurmctld is killed while tasks run and restarted after they have ended",
    daemons="real",
)
def test_row_13_a_chain_outlives_slurmctld(tmp_path: Path, devcluster: DevCluster) -> None:
    plans = two_stages(tmp_path, settings={"records": 20, "seconds": 0.5})
    runs.submit(tmp_path, plans)
    runs.until(lambda: runs.records(plans[0]) > 2, "running")
    # A slurmctld that forgot the start would hold the tasks: what it saves after this change has the start in it.
    (attempt,) = attempts.read(plans[1].path)
    slurm.call("scontrol", "update", f"JobId={attempt.finaliser}", "Comment=tasks-run")
    runs.until(lambda: devcluster.saved("tasks-run"), "saved")
    devcluster("kill-ctld")
    runs.until(lambda: not plans[0].missing(), "the tasks do not need slurmctld")
    devcluster("restart")
    runs.finished(plans)
    runs.whole(*plans)


@pytest.mark.row(
    13,
    promise="a finaliser to which slurmctld does not answer waits, and then submits once what must run again",
    injected="every command of Slurm in turn gives no answer, twice, when the finaliser calls it",
    daemons="simulated",
)
def test_row_13_a_finaliser_waits_for_slurmctld(tmp_path: Path) -> None:
    away = 'echo "slurm_load error: Unable to contact slurm controller (connect failure)" >&2; exit 1'
    made = []
    for call in ("scontrol show config", "scontrol show job", "scontrol update", "squeue", "sinfo", "sbatch"):
        root, (command, *words) = tmp_path / call.replace(" ", "-"), call.split()
        plans = two_stages(root, settings={"fail_once": "00001"})
        seen, mine = root / "seen", f'{runs.IN_A_JOB} && [[ "$*" == "{" ".join(words)}"* ]]'
        chains.write(root, plans, runs.CLUSTER)
        with pytest.MonkeyPatch.context() as patch:
            script = f"if {mine}; then echo >> {seen}; [ $(wc -l < {seen}) -gt 2 ] || {{ {away}; }}; fi"
            runs.shim(root / "bin", command, script, patch)
            chain.submit_chain(plans, {"first", "second"}, runs.CLUSTER)
        made.append((seen, plans))
    for seen, plans in made:
        runs.finished(plans)
        runs.whole(*plans)
        assert seen.read_text()  # slurmctld was away at least once; while it waited the tasks may have ended
        assert [len(attempts.read(plan.path)) for plan in plans] == [2, 2]
        once(*plans)


# What a launcher is killed before: starting a process, and every change of a file.
STEPS = ("subprocess.Popen", "os.rename", "os.link", "os.remove", "os.mkdir", "open")


def killed_at(step: int, work: Callable[[], object], submissions: int = 0) -> bool:
    """Do `work` in a copy of this process that SIGKILLs itself before its step number `step`; whether it came to that.

    With `submissions`, steps are counted from when that many sbatch have been started.
    """
    child = os.fork()
    if child == 0:
        left, awaited = step, submissions

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left, awaited
            if event not in STEPS or (event == "open" and not set(str(arguments[1])) & set("wax+")):
                return
            if awaited:
                awaited -= event == "subprocess.Popen" and "sbatch" in arguments[1]
                return
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.row(
    32,
    promise="a second submission adopts what Slurm has and submits the rest: every array and finaliser exists once",
    injected="SIGKILL of the launcher before every command that it starts and every change of a file",
    daemons="real",
)
def test_row_32_a_launcher_killed_anywhere_has_submitted_nothing_twice(held: Callable[[str], list[Plan]]) -> None:
    step, died = 0, True
    while died:
        plans = held(f"k{step}")
        died = killed_at(step, lambda: chain.submit_chain(plans, {"first", "second"}, HELD))  # noqa: B023
        told = chain.submit_chain(plans, {"first", "second"}, HELD)
        assert {row.state for row in told} <= {"queued", "submitted"}
        for plan in plans:
            (attempt,) = attempts.read(plan.path)
            assert attempt.arrays[0].tasks == (0, 1)
        once(*plans)
        slurm.cancel([job.id for job in runs.queued(plans[0].run)])
        step += 1
    assert step > 20


@pytest.mark.row(
    32,
    promise="the run then ends as an undisturbed one does",
    injected="SIGKILL of the launcher as soon as each of its four jobs is accepted",
    daemons="real",
)
def test_row_32_a_run_whose_launcher_was_killed_ends_well(tmp_path: Path) -> None:
    pairs, go = [], tmp_path / "go"
    for calls in range(1, 5):
        root = tmp_path / f"after{calls}"
        plans = two_stages(
            root, settings={"await": str(go)}
        )  # what was submitted has not ended at the second submission
        chains.write(root, plans, runs.CLUSTER)
        assert killed_at(0, lambda: chain.submit_chain(plans, {"first", "second"}, runs.CLUSTER), calls)  # noqa: B023
        pairs.append(plans)
    for plans in pairs:
        assert len(chain.submit_chain(plans, {"first", "second"}, runs.CLUSTER)) == 2
        once(*plans)  # now: while the others are waited for, Slurm forgets what has ended (MinJobAge)
    go.touch()
    for plans in pairs:
        runs.finished(plans)
        runs.whole(*plans)
        assert [runs.why(plan) for plan in plans] == [["submitted"]] * 2


@pytest.mark.row(
    32,
    promise="a stage that fails and runs again without a launcher includes what the killed launcher had submitted",
    injected="SIGKILL of the launcher as soon as the second stage's array is accepted; a task of the first then fails",
    daemons="real",
)
def test_row_32_a_retry_finishes_what_a_killed_launcher_began(tmp_path: Path) -> None:
    first, second = two_stages(tmp_path)
    first.settings["fail_once"] = "00001"
    chains.write(tmp_path, [first, second], runs.CLUSTER)
    assert killed_at(0, lambda: chain.submit_chain([first, second], {"first", "second"}, runs.CLUSTER), 3)
    (lease,) = first.path.parent.glob("submit.*.lease")
    os.utime(lease, (time.time() - 3600,) * 2)  # as if it had been killed an hour ago, on a login node
    runs.finished([first])
    runs.whole(first, second)
    once(first, second)
    assert [len(attempts.read(plan.path)) for plan in (first, second)] == [2, 1]
