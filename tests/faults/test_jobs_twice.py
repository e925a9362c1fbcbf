"""Who may do what, once: copies of a task, launchers and finalisers at the same time, stale leases. Rows 15, 16, 24."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diagcot.jobs import Pipeline, Plan, UserError, chain
from diagcot.jobs import lease as leases
from diagcot.jobs.lease import lease
from diagcot.jobs.slurm import cancellation
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.state import attempts
from tests import chains
from tests.chains import Edge
from tests.conftest import QUICK_TO_NOTICE, DevCluster
from tests.faults import runs

HELD = chains.cluster("slurm", resource_profiles={"small": runs.SMALL}, slurm={"extra": {"hold": True}})


def lost(plan: Plan) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (plan.path / "events.jsonl").read_text().splitlines()]
    return [row for row in rows if row["event"] == "lost"]


@pytest.mark.row(
    15,
    promise="of copies of a task that run at once one publishes each unit; the others say so and leave nothing behind",
    injected="four processes that work on the same task",
    daemons="real",
)
def test_row_15_of_copies_of_a_task_one_publishes(tmp_path: Path) -> None:
    plan = chains.plan(tmp_path, "stage", 3, tasks=1, settings={"records": 4, "seconds": 0.4})
    chains.write(tmp_path, [plan], chains.cluster())
    command = [sys.executable, "-m", "diagcot.jobs.execution.worker", str(plan.path), "0"]
    copies = [subprocess.Popen(command, cwd=chains.ROOT) for _ in range(4)]
    assert [copy.wait(120) for copy in copies] == [0] * 4
    for key in plan.keys:
        assert (plan.output / f"{key}.txt").read_text().count("\n") == 4
    assert sorted(os.listdir(plan.output)) == [f"{key}.txt" for key in plan.keys]  # nothing staged is left
    assert len(os.listdir(plan.path / "done")) == 3
    assert lost(plan) and "another execution" in runs.log(plan, 0)


@pytest.mark.slurm
@pytest.mark.row(
    15,
    promise="the copy on a node that Slurm gave up and the requeued one do not disturb each other: each unit is published once",
    injected="slurmd of the task's node is frozen, and its tasks run on",
    daemons="real",
)
def test_row_15_a_forgotten_copy_does_no_harm(tmp_path: Path, devcluster_with: Callable[..., DevCluster]) -> None:
    cluster = devcluster_with(accounting=True, gpu_nodes=0, extra=QUICK_TO_NOTICE)
    plan = chains.plan(tmp_path, "stage", 2, tasks=1, settings={"records": 80, "seconds": 0.25}, resources=runs.SIZE)
    runs.submit(tmp_path, [plan])
    runs.until(lambda: runs.records(plan) > 4, "work has begun")
    node = slurm.call("squeue", "-h", "-t", "R", "-n", attempts.read(plan.path)[0].arrays[0].name, "-o", "%N").strip()
    cluster("hang-node", node)
    try:
        runs.until(lambda: len(runs.executions(plan, 0)) == 2, "two copies")
        runs.finished([plan])
        time.sleep(1)  # the old copy may still be at it
        runs.until(lambda: len(re.findall(r"(?m)^\S+ \S+ done$", runs.log(plan, 0))) == 2, "both copies end")
    finally:
        cluster("restore-node", node)
    runs.whole(plan)
    first, second = runs.executions(plan, 0)
    assert (first[:-2], first[-2:], second[-2:]) == (second[:-2], "-0", "-1")
    assert runs.why(plan) == ["submitted"]


@pytest.mark.slurm
@pytest.mark.usefixtures("devcluster")
@pytest.mark.row(
    15,
    promise="one submits, the others find it submitted: every array and finaliser exists once",
    injected="five launchers that submit the same run at the same moment",
    daemons="real",
)
def test_row_15_launchers_at_once_submit_once(tmp_path: Path) -> None:
    made = [chains.plan(tmp_path, "first", 3, resources=runs.SIZE)]
    made.append(chains.plan(tmp_path, "second", 2, resources=runs.SIZE, after=(Edge("first"),)))
    chains.write(tmp_path, made, HELD)
    told = tmp_path / "told"
    start = time.time() + 1
    children = []
    for _ in range(5):
        if child := os.fork():
            children.append(child)
            continue
        try:
            time.sleep(max(0, start - time.time()))
            rows = chain.submit_chain(made, {"first", "second"}, HELD)
            with told.open("a") as out:
                out.write(" ".join(row.state for row in rows) + "\n")
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 5
    assert sorted(told.read_text().splitlines()) == ["queued queued"] * 4 + ["submitted submitted"]
    jobs = [item for plan in made for attempt in attempts.read(plan.path) for item in attempt.names.items()]
    assert len(jobs) == 4 and runs.accepted(tmp_path.name) == sorted(jobs)
    assert len(cancellation.cancel(made[0].path.parent)) == 4


def pipeline(root: Path, **more: Any) -> Pipeline:
    """A pipeline of two stages, in which `more` stands for what somebody has edited."""
    on = chains.cluster("debug", roots={name: str(root / name) for name in ("logs", "shards", "models")})
    made = Pipeline("run", on, root, seed=more.get("seed", 1), code=[chains.ROOT / "tests"])
    first = made.stage("first", more.get("kind", "tests.kinds.count"), more.get("units", ["a", "b"]), "small")
    settings = {"records": more.get("records", 3)}
    made.stage("second", "tests.kinds.count", ["c"], "small", settings=settings, after=[first] * more.get("after", 1))
    return made


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.row(
    16,
    promise="refused, with what differs and the way out; not a byte of the run changes",
    injected="a recipe edited between two submissions of a run: settings, units, seed, kind, edges",
    daemons="real",
)
@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"records": 4}, "settings.records: 3 in the run, 4 now"),
        ({"units": ["a", "x"]}, "the keys or parameters of the units differ"),
        ({"seed": 2}, "seed: 1 in the run, 2 now"),
        ({"kind": "tests.kinds.other"}, 'kind: "tests.kinds.count" in the run, "tests.kinds.other" now'),
        ({"after": 0}, "after: "),
    ],
    ids=["settings", "units", "seed", "kind", "edges"],
)
def test_row_16_another_plan_under_the_same_name_is_refused(tmp_path: Path, edit: dict[str, Any], said: str) -> None:
    pipeline(tmp_path).submit()
    before = tree(tmp_path)
    with pytest.raises(UserError) as error:
        pipeline(tmp_path, **edit).submit()
    assert said in str(error.value) and "RUN=" in str(error.value)
    after = tree(tmp_path)
    assert {name: text for name, text in after.items() if not name.endswith(".lease")} == {
        name: text for name, text in before.items() if not name.endswith(".lease")
    }
    assert [row.state for row in pipeline(tmp_path).submit()] == ["complete", "complete"]


@pytest.mark.row(
    16,
    promise="a run continues with the code that it was submitted with, whatever has changed since",
    injected="a module of the kind edited while the run is open",
    daemons="real",
)
def test_row_16_edited_code_is_not_mixed_into_a_run(tmp_path: Path) -> None:
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    source = (chains.ROOT / "tests" / "kinds" / "count.py").read_text()
    (package / "kind.py").write_text(source)

    def made() -> Pipeline:
        on = chains.cluster("local", roots={name: str(tmp_path / name) for name in ("logs", "shards", "models")})
        one = Pipeline("run", on, tmp_path, code=[package])
        one.stage("stage", "mine.kind", ["a"], "small")
        return one

    first = made().write()[0]
    (package / "kind.py").write_text(source.replace("number * number", "-number"))
    again = made()
    assert again.code != Path(first.code)
    (written,) = again.write()
    assert written.code == first.code and "number * number" in (Path(first.code) / "mine" / "kind.py").read_text()
    assert attempts.last_code(written.path, written.code) == first.code


@pytest.mark.row(
    16,
    promise="runner and tasks compute with the submitted code; a copy of it that was changed is refused, and the log says so",
    injected="a module of the kind edited right after the submission, in the checkout and in the run's copy",
    daemons="real",
)
@pytest.mark.parametrize("edited", ["checkout", "copy"])
def test_row_16_a_run_on_a_laptop_computes_with_the_submitted_code(tmp_path: Path, edited: str) -> None:
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    source = (chains.ROOT / "tests" / "kinds" / "count.py").read_text()
    (package / "kind.py").write_text(source)
    on = chains.cluster("local", roots={name: str(tmp_path / name) for name in ("logs", "shards", "models")})
    flow = Pipeline("run", on, tmp_path, code=[package])
    plan = flow.stage("stage", "mine.kind", ["a"], "small")
    wrong = source.replace("number * number", "-number")
    assert wrong != source
    if edited == "checkout":
        flow.submit()
        (package / "kind.py").write_text(wrong)
        chains.wait_for_end(flow.run_dir, 0)
        (output,) = plan.output.glob("*.txt")
        assert output.read_text() == "a-0000 0\na-0001 1\na-0002 4\n"
    else:
        flow.write()
        (flow.code / "mine" / "kind.py").write_text(wrong)
        with pytest.raises(UserError, match="was changed after submission"):
            flow.submit()
        assert plan.missing() == ["a"]


HOLD = """
import sys, time
from pathlib import Path
from diagcot.jobs.lease import lease
from diagcot.jobs.slurm import cancellation
with lease(Path(sys.argv[1])):
    Path(sys.argv[2]).write_text("held")
    time.sleep(600)
"""


@pytest.mark.row(
    24,
    promise="the lease of a dead process is taken over at once, that of a live one never, whatever the files' times are",
    injected="SIGKILL of the holder; times of the lease a year off in both directions",
    daemons="real",
)
@pytest.mark.parametrize("skew", [-3e7, 0, 3e7], ids=["old", "now", "future"])
def test_row_24_a_lease_is_its_holders_while_that_lives(tmp_path: Path, skew: float) -> None:
    path, held = tmp_path / "submit", tmp_path / "held"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path), str(held)], cwd=chains.ROOT)
    try:
        runs.until(held.exists, "held")
        (file,) = tmp_path.glob("submit.*.lease")
        os.utime(file, (time.time() + skew,) * 2)
        with pytest.raises(UserError, match=f"process {holder.pid} on"):
            with lease(path, patience_s=0.5):
                pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        began = time.monotonic()
        with lease(path, patience_s=5):
            assert time.monotonic() - began < 3
    finally:
        holder.kill()
        holder.wait()


@pytest.mark.slurm
@pytest.mark.usefixtures("devcluster")
@pytest.mark.row(
    24,
    promise="of a holder on another machine its job's state decides, not the age of the lease",
    injected="a job that holds the lease, with file times a year ago; the job is then cancelled with SIGKILL",
    daemons="real",
)
def test_row_24_the_state_of_the_holders_job_decides(tmp_path: Path) -> None:
    path, held, script = tmp_path / "submit", tmp_path / "held", tmp_path / "hold.py"
    script.write_text(HOLD)
    line = f'cd {chains.ROOT} && exec {sys.executable} -c "$(cat {script})" {path} {held}'
    job = slurm.call("sbatch", "--parsable", "-p", "cpu", "--mem=200", "-o", "/dev/null", "--wrap", line).strip()
    runs.until(held.exists, "held by the job")
    (file,) = tmp_path.glob("submit.*.lease")
    row = json.loads(file.read_text())
    if row["host"] == os.uname().nodename:  # where nodes could not be given names of their own
        file.write_text(json.dumps(row | {"host": "elsewhere"}))
    os.utime(file, (time.time() - 3e7,) * 2)
    with pytest.raises(UserError, match=f"job {job}"):
        with lease(path, patience_s=1):
            pass
    slurm.call("scancel", "-f", "-s", "KILL", job)
    runs.until(lambda: not slurm.alive({job: ""}), "the job has ended")
    with lease(path, patience_s=5):
        assert json.loads(sorted(tmp_path.glob("submit.*.lease"))[-1].read_text())["pid"] == os.getpid()


@pytest.mark.slurm
@pytest.mark.usefixtures("devcluster")
@pytest.mark.row(
    24,
    promise="a job that was requeued does not wait for the lease that it held before",
    injected="a lease of an earlier execution of the same job on another node",
    daemons="simulated",
)
def test_row_24_a_requeued_job_follows_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = slurm.call("sbatch", "--parsable", "-p", "cpu", "--mem=20", "-o", "/dev/null", "--wrap", "sleep 60").strip()
    monkeypatch.setenv("SLURM_JOB_ID", job)
    row = leases.own_process() | {"host": "elsewhere", "born": "1"}
    (tmp_path / "submit.3.lease").write_text(json.dumps(row))
    try:
        with lease(tmp_path / "submit", patience_s=1):
            pass
    finally:
        slurm.cancel([job])


@pytest.mark.row(
    24,
    promise="one holder at a time, however many want it and whoever dies",
    injected="six processes that take turns at a lease, a third of the turns ended by SIGKILL",
    daemons="real",
)
def test_row_24_one_holder_at_a_time(tmp_path: Path) -> None:
    path, inside, turns = tmp_path / "submit", tmp_path / "inside", tmp_path / "turns"
    children = []
    for number in range(24):
        if child := os.fork():
            children.append(child)
            continue
        try:
            with lease(path, patience_s=100):
                mine = f"{os.getpid()}"
                alone = not inside.exists()
                inside.write_text(mine)
                time.sleep(0.01)
                alone = alone and inside.read_text() == mine
                inside.unlink()
                with turns.open("a") as out:
                    out.write(f"{alone}\n")
                if number % 3 == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            os._exit(0)
        except BaseException:
            os._exit(1)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [-9 if number % 3 == 0 else 0 for number in range(24)]
    assert turns.read_text().splitlines() == ["True"] * 24
