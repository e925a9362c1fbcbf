"""What lies in the place of a file that is written or locked, and is no regular file, keeps nobody waiting."""

import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from diagcot.jobs import Context, Pipeline, Records, pipeline
from diagcot.jobs.environment import python
from diagcot.jobs.execution import local, worker
from diagcot.jobs.state import reading, runner
from diagcot.jobs.state.files import append_line
from diagcot.jobs.testing import context
from diagcot.serving.server import compile_cache
from diagcot.serving.server.process import Process
from tests import chains

PACKAGE = Path(__file__).resolve().parents[3] / "diagcot"
Opener = Callable[[Path], object]


@pytest.fixture(autouse=True)
def waits_for_nothing() -> Iterator[None]:
    def waited(*_: object) -> None:
        pytest.fail("a pipe was waited for")

    before = signal.signal(signal.SIGALRM, waited)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def flow(root: Path) -> Pipeline:
    made = Pipeline("run", chains.cluster(), root)
    made.code_roots = [Path(__file__).with_name("__init__.py")]  # a small file is copied at once
    made.stage("first", "tests.kinds.count", ["0"], "small")
    return made


@pytest.mark.parametrize("read_by_another", [False, True])
@pytest.mark.parametrize("name", ["runner.lock", "runner.log", "environments"])
def test_a_run_is_not_started_with_a_pipe_in_the_place_of_its_file(
    tmp_path: Path, name: str, read_by_another: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    made = flow(tmp_path)
    made.write()
    (made.run_dir / "runner.json").write_text('{"code": 0}')
    path = made.run_dir / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    reader = os.open(path if read_by_another else os.devnull, os.O_RDONLY | os.O_NONBLOCK)  # takes what is written
    try:
        for start in (lambda: flow(tmp_path).submit(), lambda: pipeline.retry_stage(made.run_dir, "first")):
            with pytest.raises(reading.NoRegularFileError) as caught:
                start()
            assert reading.sentence(caught.value) == f"{path} is no regular file: move it away"
        assert (made.run_dir / "runner.json").exists()  # how the runner before has ended
        if name != "environments":
            assert local.main([str(made.run_dir)]) == 1
            assert capsys.readouterr().err == f"error: {path} is no regular file: move it away\n"
    finally:
        os.close(reader)


OPENERS: dict[str, tuple[str, Opener]] = {
    "line": ("events.jsonl", lambda path: append_line(path, "{}")),
    "lock of a runner": ("runner.lock", lambda path: runner.lock(path.parent)),
    "environments": ("environments", lambda path: python.record(path.parent)),
    "log of a task": ("logs/test/stage/out/00000.1.1.log", lambda path: worker._redirect(_context(path.parents[4]))),
    "records": ("partial/a~1.jsonl", lambda path: Records(path.parents[1], "a", "1")),
    "log of a server": ("server.log", lambda path: Process.spawn(["true"], {}, path.parent, path)),
    "lock of a compilation": ("name.lock", lambda path: _compiled(path)),
}


def _context(root: Path) -> Context:
    return context(root, attempt="1.1", task="00000")


def _compiled(path: Path) -> None:
    with compile_cache.exclusive_fill(path.parent, path.stem, 1):
        pass


@pytest.mark.parametrize(("name", "opener"), OPENERS.values(), ids=OPENERS)
def test_a_pipe_is_not_opened_for_writing(tmp_path: Path, name: str, opener: Opener) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    with pytest.raises(reading.NoRegularFileError):
        opener(path)


OF_OTHERS = {
    "diagcot/cli/reference/run_files.py": "the code of the suite itself",
    "diagcot/cli/rewards.py": "a file of the user's, who may give a pipe",
}


def test_screens_verbs_and_evaluation_read_files_by_one_module() -> None:
    """`reading`: `Path.read_text` and `open` wait for a writer where a pipe is in the place of a file of a run."""
    read = re.compile(r'(?<!reading)\.read_(?:text|bytes)\(|(?<![\w.])open\(|(?<!os)\.open\((?!"xb?"|fileobj=)')
    root = PACKAGE.parent
    folders = ("diagcot/cli", "diagcot/console", "diagcot/evaluation", "launchers")
    modules = [path for folder in folders for path in sorted((root / folder).rglob("*.py"))]
    found = {str(path.relative_to(root)) for path in modules if read.search(path.read_text())}
    assert found == OF_OTHERS.keys()


def test_files_that_are_appended_to_or_locked_are_opened_by_one_function() -> None:
    """`reading.File`: `open` would wait for the other end of a pipe."""
    modules = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "reading.py"]
    assert [path for path in modules if re.search(r'O_APPEND|\bopen\([^()]*"a[bt+]*"', path.read_text())] == []


OPENED_OTHERWISE = {
    "jobs/execution/copies.py": "a copy is given up after any error, and its cause is reported",
    "jobs/execution/place.py": "a lock, to which nothing is written",
    "jobs/plans/plan.py": "within `named`",
    "jobs/state/files.py": "within `named`",
    "metrics/meteor/paraphrases.py": "a cache, which is left out after an error",
    "preflight/rehearsal/storage.py": "a probe",
    "preflight/site/command.py": "its own error names the file",
    "training/distributed/ray_cluster.py": "the log of another program",
    "training/small_model.py": "files of a download",
}
"""Modules that open new files without `reading.File` and `reading.written`, whose errors name the file, and why they may."""


def test_new_files_are_opened_so_that_an_error_of_a_write_names_them() -> None:
    modules = [path for path in sorted(PACKAGE.rglob("*.py")) if re.search(r'\.open\(\s*"[wx]', path.read_text())]
    assert [str(path.relative_to(PACKAGE)) for path in modules] == sorted(OPENED_OTHERWISE)
