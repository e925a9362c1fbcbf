"""Rows 4, 5, 22 and 23: disks that fail, fill up, are read-only or late, and clocks that differ."""

import errno
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from diagcot.cli.main import main
from diagcot.console.screens import failures
from diagcot.console.state import status
from diagcot.console.state import storage as disks
from diagcot.jobs import Pipeline, Plan, UserError, finaliser
from diagcot.jobs.execution import worker
from diagcot.jobs.plans import plan as plans
from diagcot.jobs.state import attempts, ledger, reading, runner
from diagcot.jobs.summary import check, summarise
from diagcot.preflight.doctor import machine
from launchers.chain import open_chain
from tests import chains
from tests.fakes import storage
from tests.faults import points
from tests.faults.conftest import Mount, mount
from tests.faults.late import Late
from tests.faults.scenarios import units
from tests.faults.test_publishing import disturb


class Do:
    """A function as a scenario without an outcome."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work

    def run(self, root: Path) -> None:
        self.work()

    def outcome(self, root: Path) -> None: ...


def forked(work: Callable[[], Any]) -> int:
    """Call it in a process of its own; the exit code."""
    return points.execute(Do(work), Path("/"))


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The outcome of the scenario on a disk that has room."""
    root = tmp_path_factory.mktemp("undisturbed")
    assert points.execute(units, root) == 0
    return units.outcome(root)


@pytest.mark.heavy
@pytest.mark.row(
    4,
    promise="a task that could not write fails; afterwards the stage ends with the same bytes",
    injected="EIO from every file operation in turn, EDQUOT from every write",
    daemons="simulated",
)
def test_row_04_an_error_of_any_file_operation_fails_the_task_and_spoils_nothing(tmp_path: Path) -> None:
    found = disturb("units", tmp_path / "points", "EIO", "EDQUOT")
    assert sum(row["action"] == "EDQUOT" for row in found) > 20
    assert [row for row in found if not row["same"] or row["resumed"]] == []
    silent = [row for row in found if row["code"] == 0 and not row["done"]]
    assert silent == [], "an execution that could not write ended well"
    assert sum(row["code"] == 1 for row in found) > len(found) / 2


@pytest.mark.heavy
@pytest.mark.row(
    4,
    promise="as before, however much space was left",
    injected="tmpfs of k pages, or of k inodes, for every k until it is enough",
    daemons="real",
)
@pytest.mark.parametrize("limit", ["nr_blocks", "nr_inodes"])
def test_row_04_a_disk_that_fills_up_anywhere(disk: Mount, expected: Any, limit: str) -> None:
    room = {"nr_blocks": 500, "nr_inodes": 500}
    failed = 0
    for count in range(2, 60):
        root = disk(**room) / str(count)
        root.mkdir()
        used = os.statvfs(root)
        taken = used.f_blocks - used.f_bfree if limit == "nr_blocks" else used.f_files - used.f_ffree
        disk(**room | {limit: taken + count})
        code = points.execute(units, root)
        if code == 0:
            assert units.outcome(root) == expected
            break
        failed += 1
        disk(**room)
        assert points.execute(units, root) == 0
        assert units.outcome(root) == expected
        subprocess.run(["rm", "-r", str(root)], check=True)
    assert failed > 5 and code == 0


@pytest.mark.heavy
@pytest.mark.row(
    4,
    promise="no manifest, earlier output intact, failed/*.json names the cause, `make failures` the remedy",
    injected="tmpfs filled by fallocate in the middle of a stage",
    daemons="real",
)
def test_row_04_a_full_disk_is_told_and_earlier_output_stays(disk: Mount, tmp_path: Path) -> None:
    out = disk(size="1m")
    plan = chains.plan(tmp_path, "count", 2, output=out, settings={"records": 200})
    run_dir = chains.write(tmp_path, [plan], chains.cluster())
    assert forked(lambda: worker.work(plan.path, 0)) == 0
    earlier = (out / "00000.txt").read_bytes()
    free = os.statvfs(out)
    subprocess.run(["fallocate", "-l", str(free.f_bavail * free.f_bsize), str(out / "others")], check=True)

    assert forked(lambda: worker.work(plan.path, 1)) == 1
    assert ledger.done_keys(plan.path) == {"00000"} and not (out / "00001.txt").exists()
    assert (out / "00000.txt").read_bytes() == earlier
    (row,) = [json.loads(path.read_text()) for path in (plan.path / "failed").glob("*.json")]
    assert row["unit"] == "00001" and "No space left on device" in row["message"] and row["where"]
    (said,) = failures.failures(status.snapshot(run_dir).stages[0])
    assert "delete files" in failures.remedy(said.message)

    (out / "others").unlink()
    assert forked(lambda: worker.work(plan.path, 1)) == 0
    assert check(plan) == [] and len((out / "00001.txt").read_text().splitlines()) == 200


@pytest.mark.row(
    4,
    promise="the runner ends and status says why; submit says in one line that nothing was submitted, cancel works",
    injected="tmpfs of the logs alone, filled while a runner works",
    daemons="real",
)
def test_row_04_a_full_disk_of_the_logs_is_told(
    disk: Mount, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = disk(size="40m")
    run = ["--run", "run", "--logs", str(logs)]
    flow = Pipeline(
        "run",
        chains.cluster(roots={"logs": logs, "shards": tmp_path, "models": tmp_path}),
        tmp_path,
        code=[chains.ROOT / "tests"],
    )
    flow.stage("count", "tests.kinds.count", ["a", "b"], "small", settings={"records": 60, "seconds": 0.05})
    flow.submit()
    subprocess.run(
        ["dd", "if=/dev/zero", f"of={logs / 'others'}", "bs=4k"], check=False, capture_output=True
    )  # until it is full
    while runner.process_id(flow.run_dir):
        time.sleep(0.1)
    main(["status", *run])
    said = " ".join(capsys.readouterr().out.split())
    assert ("its runner died: " in said or "its runner was stopped: " in said) and "No space left" in said
    with pytest.raises(OSError, match="No space left"):
        flow.submit()
    for verb, told in (["retry", "--stage", "count"], "No space left"), (["cancel"], "0 jobs cancelled"):
        main([*verb, *run])
        shown = capsys.readouterr()
        assert told in shown.out + shown.err and "Traceback" not in shown.err

    (logs / "others").unlink()
    flow.submit()
    chains.wait_for_end(flow.run_dir, 0)


def taking(
    root: Path,
    *places: str,
    tmp: Path,
    out: Path | None = None,
    wrapped: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
) -> Path:
    """A run whose stages write a megabyte each, in these places, as it has ended. wrapped: before the runner's command."""
    kind, out = "tests.kinds.taking:run", out or root / "take"
    stages = [chains.plan(root, p, 1, kind=kind, settings={"place": p}, output=out / p) for p in places]
    run_dir = chains.write(root, stages, chains.cluster(max_attempts=1))
    runner = [*wrapped, sys.executable, "-m", "diagcot.jobs.execution.local", str(run_dir)]
    env = os.environ | {"TMPDIR": str(tmp), "PYTHONPATH": str(chains.ROOT), **(variables or {})}
    done = subprocess.run(runner, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    return run_dir


def told(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What `status` and `failures` say of a run that has failed."""
    said = {}
    for verb in ("status", "failures"):
        assert main([verb, "--logs", str(run_dir.parent), "--run", run_dir.name]) == 1
        said[verb] = " ".join(capsys.readouterr().out.split())
    return said


@pytest.mark.row(
    4,
    promise="the tasks that write there fail, and no other; `failures` names cause and remedy for each, `status` the stages",
    injected="RLIMIT_FSIZE of 200 kB, and EDQUOT by a preloaded library: in the log, the temporary folder, a product and weights",
    daemons="simulated",
)
@pytest.mark.parametrize("number", [errno.EFBIG, errno.EDQUOT])
def test_row_04_a_place_that_takes_no_more_is_told(
    tmp_path: Path, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ("log", "tmp", "product", "weights")
    with tempfile.TemporaryDirectory(prefix="take") as short:  # the paths of sockets have a limit
        if number == errno.EFBIG:
            run_dir = taking(tmp_path, *places, tmp=Path(short), wrapped=["prlimit", "--fsize=200000"])
        else:
            rule = f"write {number} 0 /take|/log/out/ 1"
            preloaded = {"LD_PRELOAD": str(storage.library(tmp_path)), storage.RULE: rule}
            run_dir = taking(tmp_path, *places, tmp=Path(short), variables=preloaded)
    said = told(run_dir, capsys)
    for place in places:
        assert ledger.done_keys(run_dir / place) == set() and not (tmp_path / "take" / place / "00000").exists()
        assert f"✗ {place}" in said["status"]
    assert said["failures"].count(os.strerror(number)) == said["failures"].count("fault in: site") == len(places)
    assert said["failures"].count(reading.remedy(number)) == len(places)


@pytest.mark.row(
    4,
    promise="`status` and `failures` say so, whichever folder it is; another folder is taken for temporary files",
    injected="tmpfs of products, weights and temporary files that is full; tmpfs of the logs that became read-only",
    daemons="real",
)
@pytest.mark.parametrize("state", ["full", "read-only"])
def test_row_04_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, disk: Mount, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = disk(size="200k")
    if state == "full":
        (place / "tmp").mkdir()
        with pytest.raises(OSError), (place / "ballast").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        run_dir = taking(tmp_path, "tmp", "product", "weights", out=place, tmp=place / "tmp")
        said = told(run_dir, capsys)
        assert all("the disk is full" in text for text in said.values()), said
        assert said["failures"].count("No space left on device") >= 3, said
        return
    (tmp_path / "logs").symlink_to(place)
    chains.write(tmp_path, [chains.plan(tmp_path, "count", 1)], chains.cluster())
    mount("-o", "remount,ro", str(place))
    runner = [sys.executable, "-m", "diagcot.jobs.execution.local", str(tmp_path / "logs" / tmp_path.name)]
    done = subprocess.run(runner, cwd=chains.ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    said = told(tmp_path / "logs" / tmp_path.name, capsys)
    assert all("the file system is mounted read-only" in text for text in said.values()), said


def test_a_disk_with_room_is_not_named(tmp_path: Path) -> None:
    assert list(disks.faults([tmp_path / "not" / "there", tmp_path, Path("/proc")])) == []


@pytest.fixture
def submission(tmp_path: Path) -> Callable[..., Any]:
    """A chain whose roots may be named; it would run on Slurm, which is not asked before the roots are known good."""
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("name: mine\nseed: 1\nstages: [{name: phantoms, kind: phantoms, number: 0}]\n")

    def make(**roots: Path) -> Any:
        places = {name: str(roots.get(name, tmp_path / name)) for name in ("logs", "shards", "models")}
        about = {"name": "here", "executor": "slurm", "roots": places, "resource_profiles": {"cpu": {}, "small": {}}}
        (tmp_path / "here.yaml").write_text(json.dumps(about))
        return open_chain(str(recipe), str(tmp_path / "here.yaml"), "trial")

    return make


@pytest.mark.row(
    5,
    promise="reported before submission, with the folder and the reason; nothing is written or submitted",
    injected="roots on a read-only tmpfs, and on one that is full",
    daemons="real",
)
@pytest.mark.parametrize("root", ["logs", "shards", "models"])
@pytest.mark.parametrize(("options", "reason"), [({"ro": True}, "Read-only file system"), ({}, "No space left")])
def test_row_05_roots_that_cannot_be_written_are_told_before_submission(
    tmp_path: Path, disk: Mount, submission: Any, root: str, options: Any, reason: str
) -> None:
    place = disk(size="64k", **options)
    if not options:
        subprocess.run(["fallocate", "-l", "64k", str(place / "others")], check=True)
    chain = submission(**{root: place / "deep" / "down"})
    with pytest.raises(UserError, match=rf"disk cannot be written \({reason}.*nothing was submitted"):
        chain.submit("all")
    assert not any((tmp_path / name).exists() for name in ("logs", "shards", "models"))
    if options:
        found = machine.outputs([place / "deep"])
        assert next((finding.level, "is not writable" in finding.text) for finding in found) == ("bad", True)


@pytest.mark.row(
    5,
    promise="reported before submission, in one line and without a traceback",
    injected="a folder of another user",
    daemons="real",
)
def test_row_05_a_folder_of_another_user_is_told_before_submission(submission: Any) -> None:
    if os.getuid():
        pytest.skip("only root can become another user, to whom the folder is closed")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        chain = submission(logs=Path(folder) / "logs", shards=Path(folder) / "shards", models=Path(folder) / "models")

        def submit() -> None:
            os.setgid(65534)
            os.setuid(65534)
            with pytest.raises(UserError, match=rf"{folder} cannot be written \(Permission denied\)"):
                chain.submit("all")

        assert forked(submit) == 0
        assert not os.listdir(folder)


@pytest.mark.row(
    5,
    promise="a task whose disk became read-only fails with that reason and leaves no mark",
    injected="remount read-only between two units",
    daemons="real",
)
def test_row_05_a_disk_that_becomes_read_only_fails_the_task(disk: Mount, tmp_path: Path) -> None:
    out = disk(size="1m")
    plan = chains.plan(tmp_path, "count", 2, output=out)
    plans.write(plan)
    assert forked(lambda: worker.work(plan.path, 0)) == 0
    mount("-o", "remount,ro", str(out))
    assert forked(lambda: worker.work(plan.path, 1)) == 1
    assert check(plan) == ["00001"]
    (row,) = [json.loads(path.read_text()) for path in (plan.path / "failed").glob("*.json")]
    assert "Read-only file system" in row["message"] and "read-only" in failures.remedy(row["message"])


@pytest.mark.heavy
@pytest.mark.row(
    22,
    promise="the finaliser looks again until a deadline: no unit counts as missing, none is taken back or run again",
    injected="marks, outputs, or both hidden from the finaliser's node for 1.5 s",
    daemons="simulated",
)
@pytest.mark.parametrize("pattern", ["done/*.json", "out/count/*.txt", "0*"], ids=["marks", "outputs", "all"])
def test_row_22_files_that_show_up_late_are_not_missing(tmp_path: Path, pattern: str) -> None:
    plan = chains.plan(tmp_path, "count", 3)
    chains.write(tmp_path, [plan], chains.cluster())
    for task_index in range(3):
        assert forked(partial(worker.work, plan.path, task_index)) == 0
    marks = {path.name: path.stat().st_ino for path in (plan.path / "done").iterdir()}

    def end() -> None:
        os.environ["SLURM_JOB_ID"] = "7"
        os.environ["PATH"] = "/nonexistent"  # whoever would submit again has to ask Slurm
        late = Late(tmp_path, pattern, 1.5)
        late.install()
        assert finaliser.finalise(plan.path) == "done"
        assert late.hidden > 0

    started = time.monotonic()
    assert forked(end) == 0
    assert time.monotonic() - started < finaliser.VISIBLE_S
    assert json.loads((plan.path / "summary.json").read_text())["state"] == "done"
    assert {path.name: path.stat().st_ino for path in (plan.path / "done").iterdir()} == marks
    assert len(list(plan.output.glob("*.txt"))) == 3 and not (plan.path / "attempts").exists()


@pytest.mark.row(
    22,
    promise="what is still not there at the deadline is missing, and done again",
    injected="an output that is removed",
    daemons="real",
)
def test_row_22_what_never_shows_up_is_missing_after_the_deadline(tmp_path: Path) -> None:
    plan = chains.plan(tmp_path, "count", 2)
    plans.write(plan)
    for task_index in range(2):
        assert forked(partial(worker.work, plan.path, task_index)) == 0
    (plan.output / "00001.txt").unlink()
    started = time.monotonic()
    assert check(plan, 1) == ["00001"] == plan.missing()
    assert 1 <= time.monotonic() - started < 5


@pytest.mark.heavy
@pytest.mark.row(
    23,
    promise="what is done, tried and resumed does not depend on any clock",
    injected="a clock of its own for every process, up to a month off, and random times on all files between them",
    daemons="simulated",
)
@pytest.mark.parametrize("seed", range(4))
def test_row_23_clocks_that_differ_change_nothing(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    settings = {"fail_once": "00002", "records": 2}
    root = tmp_path / "run"
    plan = chains.plan(root, "count", 4, settings=settings)
    following = chains.plan(root, "next", 4, after=(chains.Edge("count", True),))
    run_dir = chains.write(root, [plan, following], chains.cluster())

    def at_another_time(stage: Plan, task_index: int) -> Callable[[], None]:
        shift = rng.uniform(-1, 1) * 30 * 86400

        def work() -> None:
            clock = time.time
            time.time = lambda: clock() + shift
            worker.work(stage.path, task_index)

        return work

    def shake() -> None:
        for path in sorted(tmp_path.rglob("*")):
            when = time.time() + rng.uniform(-1, 1) * 30 * 86400
            os.utime(path, (when, when))

    for stage in (plan, following):
        codes = []
        for task_index in rng.sample(range(4), 4):
            codes.append(forked(at_another_time(stage, task_index)))
            shake()
        assert sorted(codes) == ([0, 0, 0, 1] if stage is plan else [0, 0, 0, 0])
        for task_index in stage.open_tasks():
            assert forked(at_another_time(stage, task_index)) == 0
            shake()
        assert check(stage) == []
        summary = summarise(stage, [])
        assert (summary["state"], summary["failures"]) == ("done", int(stage is plan))
        lines = [f"{k}-{n:04d} {n * n}\n" for k in stage.keys for n in range(stage.settings.get("records", 3))]
        assert "".join(p.read_text() for p in sorted(stage.output.glob("*.txt"))) == "".join(lines)
    for number in rng.sample(range(1, 12), 11):
        attempts.write(plan.path, attempts.Attempt(number, "submitted"))
    shake()
    assert [attempt.number for attempt in attempts.read(plan.path)] == list(range(1, 12))
    shown = status.snapshot(run_dir)
    assert [(stage.state, stage.done) for stage in shown.stages] == [("done", 4), ("done", 4)]
