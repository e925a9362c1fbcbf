"""What `diagcot clean` may remove: environments, and what finished stages have left."""

import fcntl
import io
import os
import sys
from pathlib import Path

import pytest

from diagcot.cli import cleaning
from diagcot.jobs.environment import python
from diagcot.jobs.state import attempts, index, runner
from diagcot.jobs.state.attempts import Array, Attempt
from diagcot.jobs.state.ledger import publish
from tests import chains


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in (".venv-old", ".venv-new", ".venv-former"):
        (tmp_path / name).mkdir()
    (tmp_path / ".venv.lock").touch()
    (tmp_path / ".venv").symlink_to(".venv-new")
    return tmp_path


def run_of(root: Path, executor: str, environment: str) -> Path:
    plan = chains.plan(root, "s", 2)
    run_dir = chains.write(root, [plan], chains.cluster(executor))
    (run_dir / python.FILE).write_text(f"{root / environment}\n")
    attempts.write(plan.path, Attempt(1, "test", (Array("71", (0, 1), name="first.s.1"),), finaliser="72"))
    return run_dir


def answer(root: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    (root / "bin").mkdir(exist_ok=True)
    (root / "bin" / "squeue").write_text(f"#!/bin/sh\n{script}\n")
    (root / "bin" / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{root / 'bin'}:/usr/bin:/bin")


def names(root: Path, *runs: Path) -> list[str]:
    return [path.name for path in cleaning.unused(root, runs)]


def test_the_environment_of_a_runner_stays_until_it_ends(root: Path) -> None:
    run_dir = run_of(root, "local", ".venv-old")
    held = runner.lock(run_dir)
    assert names(root, run_dir) == [".venv-former"]
    held.close()
    assert names(root, run_dir) == [".venv-former", ".venv-old"]


def test_the_environment_of_queued_jobs_stays(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = run_of(root, "slurm", ".venv-old")
    answer(root, monkeypatch, "echo '80|71|first.s.1'")
    assert names(root, run_dir) == [".venv-former"]
    answer(root, monkeypatch, "true")
    assert names(root, run_dir) == [".venv-former", ".venv-old"]
    answer(root, monkeypatch, "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    assert names(root, run_dir) == [".venv-former"]  # nobody knows, so it stays
    answer(root, monkeypatch, "true")
    (run_dir / "scripts").mkdir()  # a person may submit them at any time
    assert names(root, run_dir) == [".venv-former"]


def test_a_submission_names_the_folder_and_not_the_link(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / ".venv-new" / "bin").mkdir()
    monkeypatch.setattr(sys, "prefix", str(root / ".venv"))
    monkeypatch.setattr(sys, "executable", str(root / ".venv" / "bin" / "python"))
    assert python.interpreter() == str(root / ".venv-new" / "bin" / "python")
    run_dir = run_of(root, "local", ".venv-old")
    python.record(run_dir)
    python.record(run_dir)
    assert python.named(run_dir) == [str(root / ".venv-old"), str(root / ".venv-new")]


def test_what_finished_stages_have_left_is_removed_after_a_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Checkpoints of a stage that is not finished stay, and so does every product; a run at work is left alone."""
    models = tmp_path / "models" / "one"
    plans = [
        chains.plan(tmp_path / "logs" / "one", stage, 1, output=models / stage, workspace=models / ".work" / stage)
        for stage in ("first", "second")
    ]
    run_dir = chains.write(tmp_path / "logs" / "one", plans, chains.cluster("local"))
    for plan in plans:
        for folder in (plan.output, plan.workspace):
            folder.mkdir(parents=True)
            (folder / "weights").write_text("x")
    (models / ".work" / "servers").mkdir()
    publish(run_dir / "first", plans[0].keys[0], {}, {}, {})
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))  # no terminal, so nobody can be asked
    monkeypatch.chdir(tmp_path)
    index.add(run_dir)
    held = runner.lock(run_dir)
    cleaning._clean_runs(yes=True)
    held.close()
    assert capsys.readouterr().out == ""
    cleaning._clean_runs(yes=False)
    told = capsys.readouterr().out
    assert f"{models}/.work/first\n" in told and "second" not in told and "--yes does it" in told
    assert (plans[0].workspace / "weights").exists()
    cleaning._clean_runs(yes=True)
    assert not plans[0].workspace.exists() and (models / ".work" / "servers").exists()
    assert (plans[1].workspace / "weights").exists() and (plans[0].output / "weights").exists()
    publish(run_dir / "second", plans[1].keys[0], {}, {}, {})
    cleaning._clean_runs(yes=True)
    assert sorted(path.name for path in models.iterdir()) == [".work", "first", "second"]
    assert not any((models / ".work").iterdir())


def test_what_killed_jobs_have_left_in_scratch_is_removed_and_nothing_that_is_another_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """$SLURM_JOB_ID of `scratch` is not set here: it stands for any job's folder."""
    for name in ("SLURM_JOB_ID", "SLURM_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    scratch = tmp_path / "scratch"
    kept = ["71/notes", "72/dc000002", "73/dc000003", "74/.dc000004", "75/.dc000005", "76/dc000006"]
    for name in ("71/dc000001", "71/.dc00000a", "71/dc00000b", *kept):
        (scratch / name / "t").mkdir(parents=True)
        (scratch / name / "lock").touch()
    (scratch / "71/dc00000b/lock").unlink()  # half removed
    for name in ("71/.dc00000a", "75/.dc000005"):
        os.utime(scratch / name, (0, 0))
    (scratch / "75/.dc000005/thesis").mkdir()  # not a place
    os.utime(scratch / "75/.dc000005", (0, 0))
    (scratch / "73").chmod(0o777)  # others can put anything in it
    if os.geteuid() == 0:
        os.chown(scratch / "76/dc000006", 65534, 65534)
    else:
        kept.remove("76/dc000006")
    about = chains.cluster("slurm", scratch=f"{scratch}/$SLURM_JOB_ID")
    run_dir = chains.write(tmp_path / "logs" / "one", [chains.plan(tmp_path / "logs" / "one", "s", 1)], about)
    index.add(run_dir)
    broken = chains.write(tmp_path / "logs" / "two", [chains.plan(tmp_path / "logs" / "two", "s", 1)], about)
    (broken / "cluster.yaml").write_text("name: [")
    index.add(broken)
    with (scratch / "72/dc000002/lock").open() as lock:  # of a job that runs
        fcntl.flock(lock, fcntl.LOCK_EX)
        cleaning._clean_places()
    assert [name for name in kept if not (scratch / name).exists()] == []
    gone = [scratch / "71" / name for name in (".dc00000a", "dc000001", "dc00000b")]
    assert not any(path.exists() for path in gone)
    assert {f"removed {path}" for path in gone} <= set(capsys.readouterr().out.splitlines())
