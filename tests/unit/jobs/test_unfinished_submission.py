"""A submission that a full disk, a limit or a kill ends in the middle: the file is named, and the run told as what it is."""

import errno
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from diagcot.cli.main import main
from diagcot.data.pixels import Jpeg
from diagcot.data.study import Image, Study
from diagcot.exchange import written
from diagcot.jobs import Pipeline, UserError, pipeline
from diagcot.jobs.lease import lease
from diagcot.jobs.plans import segments, stored
from diagcot.jobs.state import reading
from diagcot.jobs.state.files import append_line
from diagcot.shards.writer import ShardWriter
from tests import chains

HERE = Path(__file__).parent
NOT_FINISHED = "the submission of this run has not finished: "


def flow(root: Path, stages: tuple[str, ...] = ("first", "second"), units: int = 6) -> Pipeline:
    """A run whose code is one small file, so that its submission takes milliseconds."""
    roots = {"logs": root / "logs", "shards": root / "out", "models": root / "work"}
    made = Pipeline("run", chains.cluster(roots=roots), root, about={"recipe": "r"}, keep={"recipe.yaml": "name: r\n"})
    made.code_roots = [HERE / "__init__.py"]
    for name in stages:
        made.stage(name, "tests.kinds.count", [f"{k:05d}" for k in range(units)], "small")
    return made


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """`ulimit -f`, in bytes."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def verb(run_dir: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """(exit code, all that was said, without the breaks of lines)"""
    code = main([*arguments, "--logs", str(run_dir.parent), "--run", run_dir.name])
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return code, " ".join((said.out + said.err).split())


def test_the_file_that_a_limit_stops_is_named_and_so_is_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = flow(tmp_path, units=6000)
    with pytest.raises(OSError, match="too large") as caught, no_file_above(50_000):
        made.write()
    listed = made.run_dir / "first" / segments.UNITS
    said = reading.sentence(caught.value)
    assert said.startswith(f"{listed}: File too large (EFBIG)") and "`ulimit -f unlimited`" in said
    assert [path.name for path in (made.run_dir / "first").iterdir()] == []  # nothing half is left
    for name in ("status", "failures", "verify", "watch", "table", "traces"):
        code, told = verb(made.run_dir, capsys, name)
        assert code == 1 and NOT_FINISHED in told and "first, second have no plan" in told, name
        assert "`make submit-all RUN=run`" in told and "`make remove RUN=run`" in told and "make retry" not in told
    with pytest.raises(UserError, match=NOT_FINISHED):
        pipeline.retry_stage(made.run_dir, "first")
    flow(tmp_path, units=6000).write()
    assert verb(made.run_dir, capsys, "status")[0] == 0 and not stored.unfinished(made.run_dir)


def test_a_file_of_the_code_that_a_limit_stops_is_named(tmp_path: Path) -> None:
    made = flow(tmp_path)
    made.code_roots = [HERE / "test_damage.py"]
    with pytest.raises(OSError, match="too large") as caught, no_file_above(6000):
        made.write()
    assert Path(caught.value.filename).name == "test_damage.py"
    assert list((made.run_dir / "code").iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("at", range(6))
def test_so_is_the_file_that_a_full_disk_or_a_quota_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, at: int
) -> None:
    """fsync says it where the disk takes what is written only later, as a file server does."""
    left, real = iter(range(at, -1, -1)), os.fsync
    names = []

    def fsync(handle: int) -> None:
        names.append(Path(f"/proc/self/fd/{handle}").readlink())
        if names[-1].is_file() and next(left, 1) == 0:
            raise OSError(number, os.strerror(number))
        real(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            flow(tmp_path).write()
    assert not (path := Path(caught.value.filename)).name.startswith(".") and path.name in names[-1].name
    assert path.parent == names[-1].parent
    said = reading.sentence(caught.value)
    assert said.startswith(f"{path}: ") and reading.remedy(number) in said
    assert not list((tmp_path / "logs").rglob(f".*.{os.getpid()}*"))


def killed_at(step: int, work: Callable[[], Any]) -> bool:
    """Do it in a process that ends, as by kill -9, before it gives a file its name for the n-th time; whether it was."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    left = iter(range(step, -1, -1))

    def before(real: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *names, **options: os._exit(9) if next(left) == 0 else real(*names, **options)

    try:
        for name in ("link", "replace", "rename", "mkdir"):
            setattr(os, name, before(getattr(os, name)))
        work()
        os._exit(0)
    finally:
        os._exit(1)


def test_a_run_whose_submission_was_killed_is_told_and_continues(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told, step = 0, 0
    while killed_at(step, flow(root := tmp_path / f"{step}").write):
        step += 1
        run_dir = root / "logs" / "run"
        if (run_dir / "run.json").exists():
            code, said = verb(run_dir, capsys, "status")
            plans = [run_dir / stage / "plan.json" for stage in ("first", "second")]
            if all(path.exists() for path in (*plans, run_dir / "cluster.yaml")):  # all that a retry needs
                assert code == 0 and "0 of 2 stages done" in said and stored.stages(run_dir) == ["first", "second"]
            else:
                told += 1
                assert code == 1 and NOT_FINISHED in said and "make retry" not in said
                assert verb(run_dir, capsys, "failures")[0] == verb(run_dir, capsys, "verify")[0] == 1
        flow(root).write()
        code, said = verb(run_dir, capsys, "status")
        assert code == 0 and "0 of 2 stages done" in said and NOT_FINISHED not in said
    assert step > 12 and told > 5


def test_so_is_one_by_which_a_stage_joins_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told, step = 0, 0
    joins = "the submission by which second joins this run has not finished"
    while True:
        root = tmp_path / f"{step}"
        flow(root, ("first",)).write()
        if not killed_at(step, flow(root).write):
            break
        step += 1
        run_dir = root / "logs" / "run"
        code, said = verb(run_dir, capsys, "status")
        planned = (run_dir / "second" / "plan.json").exists()
        known = "second" in stored.stages(run_dir)
        told += planned and not known
        assert (code == 1 and joins in said) if planned and not known else (code == 0 and joins not in said)
        assert ("make retry" in said) == (joins not in said)  # a retry would not have the stage join
        flow(root).write()
        code, said = verb(run_dir, capsys, "status")
        assert code == 0 and "0 of 2 stages done" in said and joins not in said
    assert step > 4 and told > 1


def test_it_is_removed_unless_a_submission_is_at_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = flow(tmp_path, units=6000)
    with pytest.raises(OSError, match="too large"), no_file_above(50_000):
        made.write()
    with lease(made.run_dir / "write"):
        code, said = verb(made.run_dir, capsys, "remove", "--yes")
    assert code == 1 and "is being worked on" in said and made.run_dir.exists()
    code, said = verb(made.run_dir, capsys, "remove", "--yes")
    assert code == 0 and f"removed {made.run_dir}" in said and not made.run_dir.exists()


def test_it_does_not_go_on_with_fewer_stages(tmp_path: Path) -> None:
    """Its list of stages would lack one that run.json names, and the run would be damaged from then on."""
    with pytest.raises(OSError, match="too large"), no_file_above(50_000):
        flow(tmp_path, units=6000).write()
    with pytest.raises(UserError, match="has stages that are not planned now: second"):
        flow(tmp_path, ("first",)).write()


def test_a_line_that_a_limit_cuts_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    append_line(path, "{}")
    with pytest.raises(OSError, match="too large") as caught, no_file_above(6):
        append_line(path, '{"event": 1}')
    assert caught.value.filename == str(path)


def shard(path: Path, rows: list[dict[str, str]]) -> None:
    jpeg = Jpeg("".join(row["text"] for row in rows).encode(), 8, 8, True)
    with ShardWriter(path) as writer:
        writer.add(Study("phantom", "1", "p", "train", images=(Image("1", "PA", 8, 8),)), [jpeg])


@pytest.mark.parametrize("write", [written.json_lines, written.json_list, shard])
def test_an_error_of_a_write_names_the_file(
    tmp_path: Path, write: Callable[[Path, list[dict[str, str]]], None]
) -> None:
    path = tmp_path / "rows"
    with pytest.raises(OSError, match="too large") as caught, no_file_above(4096):
        write(path, [{"text": "x" * 100} for _ in range(1000)])
    assert caught.value.filename == str(path)
