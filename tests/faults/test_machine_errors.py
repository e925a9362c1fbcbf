"""Rows 31 and 36: errors of the machine and its storage are no damage; locks that fail; more files than may be open."""

import errno
import gc
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from diagcot.cli import main as cli
from diagcot.jobs.errors import StorageError
from diagcot.jobs.state import reading
from diagcot.jobs.state.processes import allow_open_files
from diagcot.jobs.testing import context
from diagcot.shards import Shard, files
from tests.fakes import storage
from tests.unit.shards.test_files import write


@pytest.mark.heavy
@pytest.mark.row(
    36,
    promise="an error that may pass is tried again; any other is reported with the file, the cause and what to do, and"
    " nothing is called damaged",
    injected="ESTALE, EIO, EACCES, EMFILE, ENOLCK, EAGAIN and 524, once and always, from open, read and opendir, by a"
    " preloaded library",
    daemons="real",
)
def test_row_36_no_reader_takes_an_error_of_the_storage_for_damage(tmp_path: Path) -> None:
    rows = storage.run("tests.faults.readers", tmp_path)["rows"]
    assert len(rows) > 300
    assert [row for row in rows if not row["right"]] == []


@pytest.mark.row(
    36,
    promise="`diagcot shards rebuild` sets nothing aside, `verify` names the cause",
    injected="EIO and EACCES at every open of a shard",
    daemons="simulated",
)
@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_row_36_a_shard_that_cannot_be_opened_is_not_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    path = write(tmp_path / "00000.h5")
    monkeypatch.setattr(reading, "PAUSES", (0.0,))

    def refuse(*_: object) -> None:
        raise OSError(number, "refused", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("diagcot.shards.format.hdf5._File", refuse)
        assert cli.main(["shards", "rebuild", str(path), "--logs", str(tmp_path)]) == 1
        assert path.exists() and "no damage of the file" in capsys.readouterr().err
        assert cli.main(["shards", "verify", str(path)]) == 1
        assert "no damage of the file" in capsys.readouterr().out
    assert cli.main(["shards", "verify", str(path)]) == 0


@pytest.mark.row(
    36,
    promise="no checkpoint is passed over or removed; resuming ends with the cause",
    injected="EIO at every open of the manifests of the older of two checkpoints",
    daemons="simulated",
)
def test_row_36_a_checkpoint_that_cannot_be_read_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diagcot.training.checkpoint.checkpoint import Checkpoints
    from diagcot.training.checkpoint.shard import CheckpointShard, read

    ctx = context(tmp_path)
    folders = [ctx.workspace / "checkpoints" / f"step-{step:08d}" for step in (1, 2, 3)]
    for step, folder in enumerate(folders, 1):
        folder.mkdir(parents=True)
        own = CheckpointShard(folder, 0, {"step": step, "attempt": "a", "world_size": 1, "state": {}})
        own.add("random-0.pt", {})
        own.write()
        assert read(folder) is not None
    monkeypatch.setattr(reading, "PAUSES", (0.0,))
    whole = reading.File.__init__

    def fail(self: reading.File, path: Path, *rest: object) -> None:
        if path.is_relative_to(folders[0]):
            raise OSError(errno.EIO, "refused", str(path))
        whole(self, path, *rest)  # type: ignore[arg-type]

    checkpoints = Checkpoints(ctx, None, None, keep=2)  # type: ignore[arg-type]
    with monkeypatch.context() as patch:
        patch.setattr(reading.File, "__init__", fail)
        with pytest.raises(StorageError, match="no damage of the file"):
            checkpoints._remove_old(folders[2])
        with pytest.raises(StorageError, match="no damage of the file"):
            read(folders[0])
        assert all(folder.exists() for folder in folders)
    checkpoints._remove_old(folders[2])
    assert [folder.exists() for folder in folders] == [False, True, True]


@pytest.mark.heavy
@pytest.mark.row(
    31,
    promise="shards are written and read, whatever HDF5_USE_FILE_LOCKING says",
    injected="flock that fails with ENOLCK, 524 and EAGAIN on every shard, by a preloaded library",
    daemons="real",
)
@pytest.mark.parametrize("mode", ["", "TRUE", "FALSE", "BEST_EFFORT"])
def test_row_31_shards_need_no_locks(tmp_path: Path, mode: str) -> None:
    environment = {"HDF5_USE_FILE_LOCKING": mode} if mode else {}
    rows = storage.run("tests.faults.locks", tmp_path, **environment)
    assert {(tuple(row["faults"]), row["same"]) for row in rows.values()} == {((), True)}
    if mode == "TRUE":  # the library does fail, and h5py's own setting does not help
        assert {row["plain"] for row in rows.values()} == {"not opened"}


@pytest.mark.row(
    36,
    promise="a process reads any number of shards",
    injected="1,100 shards under a limit of 1,024 open files, and under one of 64",
    daemons="real",
)
def test_row_36_more_shards_than_files_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write(tmp_path / "first.h5")
    paths = [tmp_path / f"{n:05d}.h5" for n in range(1100)]
    for path in paths:
        path.hardlink_to(first)
    gc.collect()  # files that tests before this one have left open
    before = len(list(Path("/proc/self/fd").iterdir()))

    def opened() -> int:
        """Files of this test alone: threads of tests before it close and open theirs."""
        return sum(file.path.startswith(str(tmp_path)) for file in psutil.Process().open_files())

    shards = [Shard(path) for path in paths]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit, bound, count in ((1024, files.LIMIT, 1100), (before + 40, 20, 60)):
        monkeypatch.setattr(files, "LIMIT", bound)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        try:
            assert len({shard.jpeg(0) for shard in shards[:count]}) == 1
            assert len({shard.jpeg(1) for shard in shards[:count:5]}) == 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert 0 < opened() <= bound
    del shards
    assert opened() == 0


def test_the_limit_of_open_files_is_raised_at_the_start() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 2048));"
        "from diagcot.cli.main import main; main(['help']);"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "(2048, 2048)"
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)
    allow_open_files()
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= soft[0]
    resource.setrlimit(resource.RLIMIT_NOFILE, soft)


def test_a_shard_that_is_replaced_by_another_is_read_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "00000.h5")
    assert Shard(path).jpeg(0)
    path.write_bytes(b"")
    shutil.copy(write(tmp_path / "other.h5"), path)
    assert Shard(path).jpeg(0) == Shard(tmp_path / "other.h5").jpeg(0)
