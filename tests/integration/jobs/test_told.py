"""What submit, retry and cancel answer on a laptop is what happens."""

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

from diagcot.cli.main import main
from diagcot.jobs import Pipeline, UserError, pipeline
from diagcot.jobs.execution import local
from diagcot.jobs.state import runner
from tests import chains
from tests.e2e.test_no_locks import without_flock


def flow(root: Path, **settings: object) -> Pipeline:
    roots = {name: root / name for name in ("logs", "shards", "models")}
    made = Pipeline("run", chains.cluster(roots=roots), root, code=[chains.ROOT / "tests"])
    made.stage("first", "tests.kinds.count", ["a", "b"], "small", settings=settings)
    made.stage("second", "tests.kinds.count", ["c"], "small", after=made.plans[:1])
    return made


@pytest.fixture(autouse=True)
def _stopped(tmp_path: Path) -> object:
    yield
    with contextlib.suppress(UserError):
        local.stop(tmp_path / "logs" / "run")


def test_a_second_submission_says_queued_or_why_not(tmp_path: Path) -> None:
    made = flow(tmp_path, seconds=0.5, records=20)
    assert [row.state for row in made.submit(["first"])] == ["submitted"]
    assert [row.state for row in flow(tmp_path, seconds=0.5, records=20).submit(["first"])] == ["queued"]
    with pytest.raises(
        UserError, match=r"stage second was not submitted: run run is being worked on.*make cancel RUN=run"
    ):
        flow(tmp_path, seconds=0.5, records=20).submit()
    with pytest.raises(UserError, match="is being worked on"):
        pipeline.retry_stage(made.run_dir, "first")
    assert local.stop(made.run_dir) and runner.process_id(made.run_dir) is None
    assert [row.state for row in flow(tmp_path, seconds=0.5, records=20).submit()] == ["submitted"] * 2


def test_a_runner_that_ends_at_once_is_told(tmp_path: Path) -> None:
    made = flow(tmp_path)
    made.write()
    (made.code / "tests" / "kinds" / "count.py").write_text("raise SystemExit\n")
    with pytest.raises(
        UserError, match=r"run run was not started: error: the run's code in .* was changed after submission"
    ):
        pipeline.retry_stage(made.run_dir, "first")
    with pytest.raises(UserError, match="was not started"):
        flow(tmp_path).submit()


def test_without_locks_a_submission_is_done_and_a_second_one_is_told(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from tests.integration.jobs.test_told import flow\n"
        "made = flow(Path(sys.argv[1]), seconds=0.3)\n"
        "print([row.state for row in made.submit()], flush=True)\n"
    )
    for state in ("submitted", "queued"):
        command = [sys.executable, "-c", script, str(tmp_path)]
        done = subprocess.run(
            command, preexec_fn=without_flock, cwd=chains.ROOT, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.stdout == f"{['submitted', state]}\n".replace("submitted", state), done.stderr
    chains.wait_for_end(tmp_path / "logs" / "run", 0)


def test_a_runner_on_another_machine_is_not_stopped_from_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = flow(tmp_path)
    made.write()
    (made.run_dir / "runner.lock").write_text("1 1\nelsewhere\n")
    assert main(["cancel", "--run", "run", "--logs", str(tmp_path / "logs")]) == 1
    assert "the runner of run run was started on elsewhere: stop it there" in capsys.readouterr().err


def test_a_runner_that_does_not_end_is_no_success(tmp_path: Path) -> None:
    made = flow(tmp_path)
    made.write()
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.signal(15, 1); print(1, flush=True); signal.pause()"],
                             stdout=subprocess.PIPE)  # fmt: skip
    child.stdout.readline()
    held = runner.lock(made.run_dir)
    runner.sign(held, child.pid)
    try:
        with pytest.raises(UserError, match=rf"kill -9 {child.pid}"):
            local.stop(made.run_dir, 0.5)
    finally:
        child.kill()
        child.wait()
        held.close()
        (made.run_dir / "runner.lock").unlink()
