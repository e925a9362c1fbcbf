"""The whole chain where flock fails on every file of the run and HDF5 is told to lock."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from diagcot.jobs.state import reading
from tests.e2e.conftest import ROOT, cluster_file
from tests.fakes import storage

DEADLINE_S = 1800


@pytest.mark.heavy
@pytest.mark.row(
    31,
    promise="the whole chain runs on a file system without locks, whatever HDF5_USE_FILE_LOCKING says",
    injected="flock that fails with 524 on all files of the run, by a preloaded library; HDF5_USE_FILE_LOCKING=TRUE",
    daemons="real",
)
def test_row_31_the_demo_needs_no_locks(micro: Path, tmp_path: Path) -> None:
    root = tmp_path / "without-locks"
    root.mkdir()
    command = [sys.executable, "-m", "diagcot", "demo", "--recipe", str(micro), "--run", "trial"]
    command += ["--cluster", str(cluster_file("laptop", root, "local"))]
    environment = {
        **os.environ,
        "LD_PRELOAD": str(storage.library(tmp_path)),
        storage.RULE: f"lock {reading.UNSUPPORTED} 0 {root}/",
        "HDF5_USE_FILE_LOCKING": "TRUE",
    }
    probe = f"import fcntl; fcntl.flock(open({str(root / 'probe')!r}, 'w'), fcntl.LOCK_EX)"
    refused = subprocess.run(
        [sys.executable, "-c", probe], env=environment, capture_output=True, text=True, check=False
    )
    assert "OSError: [Errno 524]" in refused.stderr
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((root / "logs" / "trial" / "metrics.json").read_text())["rows"]
