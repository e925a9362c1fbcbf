"""A real Slurm for the tests: started once a session in a folder and on ports of its own, and wiped at the end."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[1] / "slurm" / "devcluster" / "devcluster.py"
SBIN = f"{os.environ['PATH']}:/usr/sbin:/sbin"
DAEMONS = ("slurmctld", "slurmd", "sbatch", "munged", "slurmdbd", "mariadbd")


@dataclass(frozen=True)
class DevCluster:
    """A cluster that is up; SLURM_CONF points at it."""

    directory: Path

    def __call__(self, *arguments: str, seconds: float = 90) -> str:
        """Run a verb of the tool, such as `cluster("kill-node", "gpu1")`; its output."""
        command = [sys.executable, str(TOOL), "--directory", str(self.directory), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return done.stdout


@pytest.fixture(scope="session")
def devcluster() -> Iterator[DevCluster]:
    absent = [name for name in DAEMONS if shutil.which(name, path=SBIN) is None]
    if absent:
        pytest.skip(f"no Slurm here ({', '.join(absent)} not installed); .ci/run installs it")
    cluster = DevCluster(Path(tempfile.mkdtemp(prefix="dc-", dir="/tmp")))
    before = os.environ.get("SLURM_CONF")
    try:
        cluster("up", "--port", str(free_ports()))
        os.environ["SLURM_CONF"] = str(cluster.directory / "etc" / "slurm.conf")
        yield cluster
    finally:
        os.environ.pop("SLURM_CONF", None)
        if before is not None:
            os.environ["SLURM_CONF"] = before
        cluster("wipe")


@pytest.fixture
def shared_path(tmp_path: Path) -> Path:
    """A folder that all nodes see."""
    return tmp_path


def free_ports(count: int = 20) -> int:
    """The first of `count` ports below the ephemeral range that nobody listens on."""
    for first in range(18000 + os.getpid() % 50 * 100, 32000, 100):
        if all(_free(port) for port in range(first, first + count)):
            return first
    raise AssertionError("no free ports")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
