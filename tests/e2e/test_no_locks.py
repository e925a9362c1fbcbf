"""A chain where flock fails in every process, and HDF5 is told to lock."""

import ctypes
import json
import os
import platform
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from diagcot.jobs.state import reading
from tests.e2e.conftest import ROOT, cluster_file

DEADLINE_S = 1800
STAGES = ("phantoms", "shard", "base", "align", "retrieval", "report")
"""All but servers: vLLM's own caches need locks, which are on the node's disk there."""
FLOCK = {"x86_64": 73, "aarch64": 32}
"""Number of the system call."""


def without_flock() -> None:
    """From here on flock fails with 524 in this process and in all that it starts (seccomp(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    load, jump_if_equal, give = 0x20, 0x15, 0x06  # instructions of classic BPF
    allow, refuse = 0x7FFF0000, 0x00050000 | reading.UNSUPPORTED
    rows = [
        (load, 0, 0, 0),
        (jump_if_equal, 0, 1, FLOCK[platform.machine()]),
        (give, 0, 0, refuse),
        (give, 0, 0, allow),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *row) for row in rows))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(rows), ctypes.addressof(code)))
    no_new_privileges, set_seccomp, filtered = 38, 22, 2
    if libc.prctl(no_new_privileges, 1, 0, 0, 0) or libc.prctl(set_seccomp, filtered, program, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


@pytest.mark.heavy
@pytest.mark.row(
    31,
    promise="a chain runs where there are no locks, whatever HDF5_USE_FILE_LOCKING says",
    injected="flock that fails with 524 in all processes of `diagcot demo` (seccomp); HDF5_USE_FILE_LOCKING=TRUE",
    daemons="real",
)
def test_row_31_the_demo_needs_no_locks(micro: Path, tmp_path: Path) -> None:
    if platform.machine() not in FLOCK:
        pytest.skip(f"the number of flock on {platform.machine()} is not known here")
    environment = {**os.environ, "HDF5_USE_FILE_LOCKING": "TRUE"}
    cluster = cluster_file("laptop", tmp_path, "local")
    cluster.write_text(cluster.read_text() + yaml.safe_dump({"pass_environment": ["HDF5_USE_FILE_LOCKING"]}))
    probe = "import fcntl, sys; fcntl.flock(open(sys.argv[1], 'w'), fcntl.LOCK_EX)"
    demo = [sys.executable, "-m", "diagcot", "demo", "--recipe", str(_smaller(micro, tmp_path)), "--run", "trial"]
    refused, done = (
        subprocess.run(
            command,
            preexec_fn=without_flock,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        for command in (
            [sys.executable, "-c", probe, str(tmp_path / "probe")],
            [*demo, "--cluster", str(cluster)],
        )
    )
    assert "OSError: [Errno 524]" in refused.stderr
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "logs" / "trial" / "metrics.json").read_text())["rows"]
    assert {row["model"] for row in rows} == {"base", "align"}


def _smaller(micro: Path, folder: Path) -> Path:
    """The recipe with few of its stages and studies."""
    recipe = yaml.safe_load(micro.read_text())
    recipe["stages"] = [stage for stage in recipe["stages"] if stage["name"] in STAGES]
    for stage in recipe["stages"]:
        for role, names in stage.get("inputs", {}).items():
            listed = [names] if isinstance(names, str) else names
            stage["inputs"][role] = [name for name in listed if name in STAGES]
        if stage["name"] == "align":
            stage["settings"]["deepspeed"].update(steps=4, save_every=2)
    path = folder / "few.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path
