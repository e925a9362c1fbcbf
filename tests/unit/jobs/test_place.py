"""The private place of a run: where it is made, who can reach it, what is left of it."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from diagcot.jobs import UserError
from diagcot.jobs.execution import place

ROOT = Path(__file__).resolve().parents[3]
OWN = [
    name for names in place._FOLDERS.values() for name in names
]  # torch sets one of them in a process that imports it
NAMES = ("SLURM_TMPDIR", *OWN, place.VARIABLE, place._GIVEN, *place._CACHES)


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a short path, which TMPDIR names."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    with tempfile.TemporaryDirectory(prefix="b", dir="/tmp") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def test_it_is_ours_alone_and_is_gone_afterwards(base: Path) -> None:
    with place.opened() as own:
        assert own.parent == base and place.current() == own
        assert stat.S_IMODE(own.stat().st_mode) == 0o700
        assert tempfile.gettempdir() == os.environ["TMPDIR"] == str(own / "t")
        for name in ("TMPDIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "VLLM_RPC_BASE_PATH"):
            assert Path(os.environ[name]).parent == own and stat.S_IMODE(Path(os.environ[name]).stat().st_mode) == 0o700
        first, second = place.folder("r"), place.folder("r")
        assert (first, second) == (own / "r0", own / "r1")
        with place.opened() as shared:  # a task of the run
            assert shared == own
    assert os.environ["TMPDIR"] == str(base) and place.VARIABLE not in os.environ
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ and not list(base.iterdir())


def test_what_is_still_written_at_its_end_is_removed_without_a_wait(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []

    def disturbed(path: Path, ignore_errors: bool) -> None:
        attempts.append(path)
        if len(attempts) > 1:
            shutil.rmtree(path, ignore_errors=ignore_errors)

    began = time.monotonic()
    with place.opened() as folder:
        monkeypatch.setattr(place, "shutil", SimpleNamespace(rmtree=disturbed))
    assert attempts == [folder, folder] and not folder.exists()
    assert time.monotonic() - began < 5


def test_the_longest_socket_can_be_made_in_the_longest_base(base: Path) -> None:
    deep = base / ("x" * (place._PATH_BYTES - len(str(base)) - 1))
    deep.mkdir()
    longer = deep.with_name(f"{deep.name}x")
    longer.mkdir()
    assert not place.unfit(deep) and f"sockets allow {place._PATH_BYTES}" in place.unfit(longer)
    with place._made(deep) as own:
        session = own / "r0" / f"session_2026-01-01_00-00-00_000000_{2**22}" / "sockets"
        session.mkdir(parents=True)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(session / "plasma_store"))


def test_the_rule(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert place.choose()[0] == base
    second = base / "second"
    second.mkdir(mode=0o700)
    monkeypatch.setenv("NODE", str(second))
    monkeypatch.setenv("SLURM_TMPDIR", "/not/there")
    assert place.choose("$NODE") == (base, ["SLURM_TMPDIR=/not/there: is not a folder on this machine"])
    base.chmod(0o777)
    chosen, refused = place.choose("$NODE")
    assert chosen == Path("/tmp") and "other users can rename" in refused[1] and "can be changed by other" in refused[2]
    base.chmod(0o1777)
    assert place.choose()[0] == base
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=64e6))
    with pytest.raises(UserError, match=r"has 0\.1 GB of free space, 1 GB are needed.*Set `scratch`"):
        place.choose()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_folder_that_programs_cannot_be_loaded_from(base: Path) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec,mode=700,size=2g", "none", base], check=False).returncode:
        pytest.skip("this machine does not let root mount")
    try:
        assert place.unfit(base) == "programs cannot be loaded from it (mounted noexec)"
        assert place.choose()[0] == Path("/tmp")
    finally:
        subprocess.run(["umount", base], check=True)


def test_what_others_made_is_not_taken(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a place that the environment names nor a cache of code that others can write."""
    planted = base / "dc012345"
    planted.mkdir()
    planted.chmod(0o777)
    monkeypatch.setenv(place.VARIABLE, str(planted))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(planted))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(base))
    with place.opened() as own:
        assert own != planted
        assert "TORCH_EXTENSIONS_DIR" not in os.environ and os.environ["NUMBA_CACHE_DIR"] == str(base)
    assert os.environ["TORCH_EXTENSIONS_DIR"] == str(planted)
    planted.chmod(0o700)
    assert place.current() == planted
    (base / "dc0000ff").symlink_to(planted)
    monkeypatch.setenv(place.VARIABLE, str(base / "dc0000ff"))
    assert place.current() is None


OWNER = """
import sys, time
from diagcot.jobs.execution import place
with place.opened() as own:
    place.folder("s")
    print(own, flush=True)
    time.sleep(60)
"""


def owner(base: Path) -> tuple["subprocess.Popen[str]", Path]:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True, env=env)
    return process, Path(process.stdout.readline().strip())


def keepers(own: Path) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0] == b"/bin/sh" and str(own).encode() in words:
            found.append(int(path.parent.name))
    return found


def test_a_killed_owner_leaves_nothing(base: Path) -> None:
    process, own = owner(base)
    assert own.parent == base
    process.kill()
    process.wait()
    end = time.monotonic() + 10
    while list(base.iterdir()) and time.monotonic() < end:
        time.sleep(0.05)
    assert not list(base.iterdir())
    for pid in keepers(own):
        os.kill(pid, signal.SIGKILL)


def test_the_next_process_removes_what_a_killed_node_left_and_nothing_that_is_used(base: Path) -> None:
    dead, left = owner(base)
    alive, used = owner(base)
    for pid in keepers(left):  # as when Slurm kills all processes of a step
        os.kill(pid, signal.SIGKILL)
    dead.kill()
    dead.wait()
    assert left.exists()
    (base / "dcother").mkdir()
    (base / "dc000001" / "r0" / "session").mkdir(parents=True)  # what outlived a place has made it again
    (base / "dc000002" / "mine").mkdir(parents=True)  # not a place
    with place.opened():
        assert not left.exists() and used.exists() and (base / "dcother").exists()
        assert not (base / "dc000001").exists() and (base / "dc000002").exists()
    alive.terminate()
    alive.wait()
