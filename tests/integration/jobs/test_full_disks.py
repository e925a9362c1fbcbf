"""A disk that is full, or read-only, under one folder of a run: `status` and `failures` say so, whichever it is."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from diagcot.cli.main import main
from diagcot.console.state import storage
from tests import chains

ROOT = Path(__file__).parents[3]


def mount(place: Path, options: str) -> None:
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this machine does not let us mount a file system ({done.stderr.strip()}); root may")


@pytest.mark.parametrize("state", ["full", "read-only"])
@pytest.mark.parametrize("folder", ["logs", "out", "tmp"])
def test_a_folder_that_cannot_be_written_is_named(
    folder: str, state: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if state == "read-only" and folder != "logs":
        pytest.skip("that of the logs is the one of which no file of the run can tell")
    short = tempfile.TemporaryDirectory(prefix="t")  # the paths of sockets have a limit
    (tmp_path / "tmp").symlink_to(short.name)
    for name in ("logs", "out"):
        (tmp_path / name).mkdir()
    place = (tmp_path / folder).resolve()
    mount(place, "size=200k")
    try:
        run_dir = chains.write(tmp_path, [chains.plan(tmp_path, "first", 2)], chains.cluster(max_attempts=1))
        if state == "full":
            with pytest.raises(OSError), (place / "ballast").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        environment = os.environ | {"TMPDIR": short.name, "PYTHONPATH": str(ROOT)}
        runner = [sys.executable, "-m", "diagcot.jobs.execution.local", str(run_dir)]
        done = subprocess.run(runner, env=environment, capture_output=True, text=True, timeout=120, check=False)
        if folder == "tmp":  # another folder is used, and said so
            assert done.returncode == 0 and "not used for temporary files" in done.stdout, done.stderr
            return
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        for verb in ("status", "failures"):
            assert main([verb, "--logs", str(tmp_path / "logs"), "--run", run_dir.name]) == 1
            shown = " ".join(capsys.readouterr().out.split())
            word = "the disk is full" if state == "full" else "the file system is mounted read-only"
            assert word in shown, f"{verb}: {shown}\n{done.stderr}"
    finally:
        subprocess.run(["umount", str(place)], check=True)
        short.cleanup()


def test_a_disk_with_room_is_not_named(tmp_path: Path) -> None:
    assert list(storage.faults([tmp_path / "not" / "there", tmp_path, Path("/proc")])) == []
