"""Which run a verb is about: by the folder, by where it was submitted from, by the user's index of runs."""

import json
import os
import threading
import time
from pathlib import Path

import pytest

from diagcot.cli import command
from diagcot.cli.main import main
from diagcot.cli.runs import find_run
from diagcot.jobs import Pipeline, UserError
from diagcot.jobs.lease import write_lease
from diagcot.jobs.slurm import cancellation
from diagcot.jobs.state import attempts, index
from diagcot.jobs.state.attempts import Array, Attempt
from tests import chains


@pytest.fixture(autouse=True)
def _own_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def run(logs: Path, name: str, age_s: int = 0) -> Path:
    folder = logs / name
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"run": name}))
    when = (folder / "run.json").stat().st_mtime - age_s
    os.utime(folder / "run.json", (when, when))
    return folder


def test_a_run_whose_logs_are_elsewhere_is_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run(tmp_path / "scratch", "far")
    index.add(folder)
    assert find_run(None, None) == find_run(None, "far") == folder
    monkeypatch.chdir(tmp_path)
    assert find_run(None, "far") == folder


def test_the_newest_run_is_one_of_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(Path("logs"), "old", 20)
    index.add(run(tmp_path / "scratch", "submitted-here", 10))
    monkeypatch.chdir(tmp_path)
    index.add(run(tmp_path / "scratch", "submitted-elsewhere"))
    monkeypatch.chdir(tmp_path / "work")
    assert find_run(None, None).name == "submitted-here"
    assert find_run(None, "submitted-elsewhere").name == "submitted-elsewhere"


def test_logs_names_the_folder(tmp_path: Path) -> None:
    index.add(run(tmp_path / "scratch", "one"))
    with pytest.raises(UserError, match="no run in "):
        find_run(tmp_path / "other", None)
    assert find_run(tmp_path / "scratch", None).name == "one"


def test_two_runs_of_a_name_are_told_apart(tmp_path: Path) -> None:
    for place in ("a", "b"):
        index.add(run(tmp_path / place, "one"))
    with pytest.raises(UserError, match=f"LOGS={tmp_path}/a or LOGS={tmp_path}/b"):
        find_run(None, "one")
    run(Path("logs"), "one")
    with pytest.raises(UserError, match="3 runs"):
        find_run(None, "one")
    assert find_run(tmp_path / "a", "one") == tmp_path / "a" / "one"


def test_a_run_that_was_removed_is_forgotten_and_damage_is_passed_over(tmp_path: Path) -> None:
    folder = run(tmp_path / "scratch", "one")
    index.add(folder)
    index.path().open("a").write("half a li")
    assert find_run(None, None) == folder
    (folder / "run.json").unlink()
    with pytest.raises(UserError, match="no run in logs/ yet"):
        find_run(None, None)


def test_the_index_is_private_and_no_home_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(tmp_path / "scratch", "one")
    index.add(folder)
    index.add(folder)
    assert index.path().stat().st_mode & 0o077 == 0 and len(index.path().read_text().splitlines()) == 1
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))  # cannot be written
    assert not capsys.readouterr().err
    index.add(folder)
    assert index.entries() == [] and f"find this run by LOGS={folder.parent}" in capsys.readouterr().err
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", "relative")
    index.add(folder)
    assert index.path() is None and "there is no home folder" in capsys.readouterr().err
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert index.path() is None and index.entries() == []


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("--time", "-1", "minutes must be greater than or equal to 1, is -1"),
        ("--time", "0", "minutes must be greater than or equal to 1, is 0"),
        ("--time", "99999999999", "minutes must be less than or equal to 525600"),
        ("--mem", "1e12", "mem_gb must be less than or equal to 1000000"),
    ],
)
def test_a_retry_takes_what_a_resource_profile_takes(
    tmp_path: Path, option: str, value: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = chains.write(tmp_path, [chains.plan(tmp_path, "stage", 2)], chains.cluster("debug"))
    place = ["--run", run_dir.name, "--logs", str(run_dir.parent)]
    assert main(["retry", "--stage", "stage", option, value, *place]) == 1
    assert why in capsys.readouterr().err and not (run_dir / "places.json").exists()


def test_cancelling_a_finished_run_says_that_there_was_nothing_to_cancel(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = chains.plan(tmp_path, "stage", 2)
    run_dir = chains.write(tmp_path, [made], chains.cluster("debug"))
    place = ["--run", run_dir.name, "--logs", str(run_dir.parent)]
    assert main(["cancel", *place]) == 0 and "submit the run again" in capsys.readouterr().out
    (made.path / "done").mkdir(exist_ok=True)
    for key in made.keys:
        (made.path / "done" / f"{key}.json").write_text("{}")
    assert main(["cancel", *place]) == 0
    assert capsys.readouterr().out.endswith("there was nothing to cancel: all its stages are finished\n")


def test_a_cancellation_waits_for_a_submission_that_is_under_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would find no jobs, say so, and the run would be worked on all the same."""
    run_dir = chains.write(tmp_path, [chains.plan(tmp_path, "stage", 2)], chains.cluster("debug"))
    begun, ended = threading.Event(), threading.Event()

    def submission() -> None:
        with write_lease(run_dir):
            begun.set()
            time.sleep(0.4)
            ended.set()

    thread = threading.Thread(target=submission)
    thread.start()
    begun.wait()
    code = main(["cancel", "--run", run_dir.name, "--logs", str(run_dir.parent)])
    assert code == 0 and ended.is_set() and "is being submitted: waiting" in capsys.readouterr().err
    thread.join()


@pytest.mark.parametrize("text", ["{", "[1]", None])
def test_cancelling_a_run_of_slurm_asks_slurm_though_its_cluster_file_is_damaged(
    tmp_path: Path, text: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = chains.plan(tmp_path, "stage", 2)
    run_dir = chains.write(tmp_path, [made], chains.cluster("slurm"))
    attempts.write(made.path, Attempt(1, "submitted", (Array("7", (0, 1), name="a"),), "8"))
    (run_dir / "cluster.yaml").unlink()
    if text is not None:
        (run_dir / "cluster.yaml").write_text(text)
    asked = []
    monkeypatch.setattr(cancellation, "cancel", lambda folder: asked.append(folder) or ["7_0"])
    assert main(["cancel", "--run", run_dir.name, "--logs", str(run_dir.parent)]) == 1
    said = capsys.readouterr().err
    assert asked == [run_dir] and "1 jobs cancelled, those that Slurm knows in this environment" in said
    assert "cluster.yaml" in said


def written(tmp_path: Path) -> Path:
    flow = Pipeline("one", chains.cluster("debug"), tmp_path)
    flow.stage("stage", "tests.kinds.count", ["a"], "small")
    flow.write()
    return flow.run_dir


def test_a_submission_into_a_run_that_is_removed_meanwhile_says_so(tmp_path: Path) -> None:
    run_dir = written(tmp_path)
    with write_lease(run_dir):
        assert main(["remove", "--yes", "--run", run_dir.name, "--logs", str(run_dir.parent)]) == 1 and run_dir.exists()
    assert main(["remove", "--yes", "--run", run_dir.name, "--logs", str(run_dir.parent)]) == 0
    assert not any(run_dir.parent.iterdir())
    with pytest.raises(UserError, match="was removed by another process"), write_lease(run_dir):
        pass


def test_what_a_killed_removal_has_left_goes_with_the_next(tmp_path: Path) -> None:
    run_dir = written(tmp_path)
    left = run_dir.parent / ".other.123.removed"
    left.mkdir()
    (left / "stages").write_text("stage")
    assert main(["remove", "--yes", "--run", run_dir.name, "--logs", str(run_dir.parent)]) == 0
    assert not any(run_dir.parent.iterdir())


@pytest.mark.parametrize("draws", ["-5", "0", "99", "100001", "1e3", "100000000000", "²"])
def test_a_number_of_draws_has_a_range(draws: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compare", "a", "b", f"--draws={draws}"])
    assert "must be a whole number from 100 to 100000" in capsys.readouterr().err


def test_ctrl_c_ends_a_command_that_has_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "parse", lambda argv: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["status"]) == 130


def test_a_damaged_index_hides_no_other_run_and_holds_nobody_up(tmp_path: Path) -> None:
    folder = run(tmp_path / "scratch", "one")
    index.add(folder)
    file = index.path()
    assert file is not None
    file.write_bytes(b"\xff\xfe{\n" + file.read_bytes() + b"[1]\n")
    assert [entry.run_dir for entry in index.entries()] == [folder]
    file.unlink()
    os.mkfifo(file)
    index.add(folder)
    assert index.entries() == []
