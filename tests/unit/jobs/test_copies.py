"""Copies of shards on the node's own disk: made once, equal to the file, gone with the last process that reads them."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from diagcot.jobs import UserError
from diagcot.jobs.cluster import load_cluster
from diagcot.jobs.environment import variables
from diagcot.jobs.execution import copies, place

ROOT = Path(__file__).resolve().parents[3]
PROFILES = "resource_profiles: {small: {}, train: {local_shards: true}}"


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The node's own disk, which TMPDIR names."""
    monkeypatch.setattr(copies, "_said", [])
    with tempfile.TemporaryDirectory(prefix="d", dir="/tmp") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "00000.h5"
    path.write_bytes(os.urandom(5 << 20))
    return path


def copied(disk: Path) -> list[Path]:
    return sorted(disk.glob("dc*/f/*.h5"))


def test_a_file_is_copied_once_and_the_copy_goes_with_the_last_who_reads_it(
    disk: Path, shard: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with copies.opened("$TMPDIR"), place.opened(""):  # the place has a TMPDIR of its own
        assert os.environ["TMPDIR"] != str(disk) == str(place.expanded("$TMPDIR"))
        first = copies.near(shard)
        assert [first] == copied(disk) and first.read_bytes() == shard.read_bytes()
        assert copies.near(shard) == first
        shard.write_bytes(b"rebuilt")
        second = copies.near(shard)
        assert second != first and second.read_bytes() == b"rebuilt"
    assert not list(disk.iterdir()) and copies.near(shard) == shard
    assert capsys.readouterr().out.count("copied to") == 2


READER = """
import sys, time
from pathlib import Path
from diagcot.jobs.execution import copies
with copies.opened(sys.argv[1]):
    print(copies.near(Path(sys.argv[2])), flush=True)
    time.sleep(float(sys.argv[3]))
"""


def reader(disk: Path, shard: Path, seconds: float) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", READER, str(disk), str(shard), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})


def test_of_processes_at_the_same_time_one_copies_and_a_killed_one_leaves_nothing(disk: Path, shard: Path) -> None:
    processes = [reader(disk, shard, 60) for _ in range(3)]
    said = []
    for process in processes:
        line = process.stdout.readline()
        said.append(line)
        if "copied to" in line:
            said.append(process.stdout.readline())
    (copy,) = copied(disk)
    assert sum("copied to" in line for line in said) == 1
    assert [line.strip() for line in said if "copied to" not in line] == [str(copy)] * 3
    for process in processes[:2]:
        process.kill()
        process.wait()
    time.sleep(0.3)
    assert copy.exists()  # the third one reads it
    processes[2].kill()
    processes[2].wait()
    end = time.monotonic() + 10
    while list(disk.iterdir()) and time.monotonic() < end:
        time.sleep(0.05)
    assert not list(disk.iterdir())


def test_what_a_killed_node_left_is_removed_by_the_next_process(disk: Path, shard: Path) -> None:
    process = reader(disk, shard, 60)
    assert "copied to" in process.stdout.readline()
    (left,) = disk.iterdir()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # a process that has ended since
            if path.read_bytes().split(b"\0")[-2:-1] == [bytes(left)]:
                os.kill(int(path.parent.name), signal.SIGKILL)  # its keeper
    process.kill()
    process.wait()
    time.sleep(0.3)
    assert copied(disk) and left.exists()
    with copies.opened(str(disk)):
        assert not copied(disk)
    assert not list(disk.iterdir())


def test_without_enough_space_files_are_read_where_they_are(
    disk: Path, shard: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with copies.opened(str(disk)):
        with monkeypatch.context() as patch:
            patch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1.004e9))
            assert copies.near(shard) == copies.near(shard) == shard
        said = capsys.readouterr().out
        assert said.count("00000.h5 is read from the shared storage") == 1 and "1.0 GB are free" in said
        with monkeypatch.context() as patch:
            patch.setattr("os.posix_fallocate", full)
            assert copies.near(shard) == shard
        assert not copied(disk) and not list(disk.glob("dc*/f/.*"))
        assert copies.near(shard) in copied(disk)  # there is space again


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_copy_that_is_not_equal_is_not_used(
    disk: Path, shard: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def spoilt(descriptor: int) -> None:
        os.pwrite(os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY), b"?", 4 << 20)

    with copies.opened(str(disk)):
        monkeypatch.setattr("os.fsync", spoilt)
        assert copies.near(shard) == shard and not copied(disk)
    assert "is not equal to it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("mode", "why"), [(0o777, "other users can rename"), (None, "is not a folder on this machine")]
)
def test_a_folder_that_will_not_do_is_named(
    disk: Path, shard: Path, mode: int | None, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = disk / "scratch"
    if mode is not None:
        folder.mkdir()
        folder.chmod(mode)
    with copies.opened(str(folder)):
        assert copies.near(shard) == shard
    assert why in capsys.readouterr().out


def test_the_cluster_file_says_which_jobs_copy(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(
        f"{{name: site, executor: slurm, scratch: $JOBFS/d, {PROFILES}, stages: {{cot: {{local_shards: true}}}}}}"
    )
    cluster = load_cluster(path)
    wanted = {stage: cluster.shards_copied_to(cluster.resources("small", stage)) for stage in ("cot", "filter")}
    assert wanted == {"cot": "$JOBFS/d", "filter": ""}
    assert cluster.shards_copied_to(cluster.resources("train", "sft")) == "$JOBFS/d"
    assert "JOBFS" in variables.named(cluster.stored())  # a job keeps the variable
    path.write_text(f"{{name: site, executor: slurm, {PROFILES}}}")
    with pytest.raises(UserError, match=r"site\.yaml:1.*local_shards needs `scratch`"):
        load_cluster(path)
