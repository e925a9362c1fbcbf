"""A pipe, or gigabytes, in the place of a file of a run: screens wait for nobody and read no more than they show."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from diagcot.cli.main import main
from diagcot.console.screens import demo, logs
from diagcot.console.state import output
from diagcot.evaluation.report import history
from diagcot.jobs import UserError
from diagcot.jobs.state import reading
from launchers import digests

WAITED_S = 5
READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "table of a study": ("study.md", lambda path: _table(path)),
    "study of the demo": ("study.md", lambda path: demo._results(path.parent)),
    "sweep of the demo": ("sweep.md", lambda path: demo._results(path.parent)),
    "recipe of the report": ("recipe.yaml", lambda path: history.versions(path.parent)),
    "end of a log": ("log", lambda path: logs.tail(path, 3)),
    "complaint in a log": ("log", lambda path: output.complaint(path)),
    "digest of JSON": ("a.json", digests.content),
    "digest of JSON lines": ("a.jsonl", digests.content),
}


def _table(path: Path) -> None:
    (path.parent / "run.json").write_text("{}")
    (path.parent / "stages").write_text("")
    if main(["table", "--run", path.parent.name, "--logs", str(path.parent.parent)]):
        raise UserError("told")


@pytest.fixture(autouse=True)
def waits_for_nothing() -> Iterator[None]:
    def waited(*_: object) -> None:
        pytest.fail("a pipe was waited for, or gigabytes were read")

    before = signal.signal(signal.SIGALRM, waited)
    signal.alarm(WAITED_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(("name", "read"), READERS.values(), ids=READERS)
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(
    tmp_path: Path, name: str, read: Callable[[Path], object]
) -> None:
    path = tmp_path / "run" / name
    path.parent.mkdir()
    os.mkfifo(path)
    with pytest.raises((reading.NoRegularFileError, UserError)):
        read(path)


@pytest.mark.parametrize("name", ["study.md", "sweep.md"])
def test_a_page_of_gigabytes_is_named_and_not_read(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run" / name
    path.parent.mkdir()
    path.touch()
    os.truncate(path, 3 << 30)
    with pytest.raises(UserError, match=rf"{name} has over 16 MB"):
        demo._results(path.parent)
    if name == "study.md":
        with pytest.raises(UserError, match="told"):
            _table(path)
        assert "study.md has over 16 MB" in capsys.readouterr().err


def test_of_a_log_of_gigabytes_the_end_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.touch()
    os.truncate(path, 3 << 30)
    with path.open("a") as file:
        file.write("\nan Error of the node\nlast\n")
    assert logs.tail(path, 2) == ["an Error of the node", "last"]
    assert output.complaint(path) == "an Error of the node"
