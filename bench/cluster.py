"""A development cluster for a benchmark, in a folder and on ports of its own, wiped at the end."""

import collections
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOOL = ROOT / "slurm" / "devcluster" / "devcluster.py"
# Looking through /proc for the memory of all jobs again and again is what a cluster with cgroups does not do.
THROUGHPUT = "JobAcctGatherType=jobacct_gather/none"
# For hundreds of nodes on one machine: nor for the processes of all jobs. Every job with a step then ends 3.0 s late here, which
# is no trait of the job: the same script took .3 s from its end to its follower with proctrack/linuxproc, 3.3 s with this.
CROWDED = "ProctrackType=proctrack/pgid"
# Hundreds of nodes that start at once on two cores: an srun whose request to slurmctld times out does not hear of the step
# that was made for it, and waits behind that step for as long as its job may last (Slurm's "Large Cluster" guide).
PATIENT = "MessageTimeout=100"


@contextlib.contextmanager
def cluster(nodes: int, accounting: bool = True, crowded: bool = False) -> Iterator[Path]:
    """`nodes` nodes of 16 CPUs, plain processes of this machine; SLURM_CONF points at them. Yields its folder."""
    folder = Path(tempfile.mkdtemp(prefix="dcb-", dir="/tmp"))
    flags = ["--port", str(_ports(nodes + 20)), "--isolation", "none", "--gpu-nodes", "0", "--cpu-nodes", str(nodes)]
    flags += ["--accounting", "yes" if accounting else "no", "--extra"]
    flags.append(";".join([THROUGHPUT, PATIENT, *([CROWDED] if crowded else [])]))
    before = os.environ.get("SLURM_CONF")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that it is wiped then, too
    try:
        _tool(folder, "up", *flags)
        os.environ["SLURM_CONF"] = str(folder / "etc" / "slurm.conf")
        yield folder
    finally:
        _tool(folder, "wipe")
        os.environ.pop("SLURM_CONF", None)
        if before is not None:
            os.environ["SLURM_CONF"] = before


def _tool(folder: Path, *arguments: str) -> None:
    command = [sys.executable, str(TOOL), "--directory", str(folder), *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=1800)


def _ports(count: int) -> int:
    for first in range(20000 + os.getpid() % 40 * 100, 32000, 100):
        if all(_free(port) for port in range(first, first + count)):
            return first
    raise OSError("no free ports between 20000 and 32000")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


COMMANDS = ("sbatch", "squeue", "sacct", "scontrol", "scancel", "sinfo", "sacctmgr", "srun")


@contextlib.contextmanager
def counted(folder: Path) -> Iterator[collections.Counter[str]]:
    """Slurm's commands on PATH leave a line each, those of jobs as `srun@job`; what is yielded is filled in at the end."""
    shims, calls = folder / "shims", folder / "calls"
    shims.mkdir(parents=True, exist_ok=True)
    calls.write_text("")
    for name in COMMANDS:
        real = shutil.which(name)
        if real:
            (shims / name).write_text(
                "#!/bin/sh\ngrep -qsz ^SLURMD_NODENAME= /proc/$PPID/environ && job=@job\n"
                f'echo {name}$job >> {calls}\nexec {real} "$@"\n'
            )
            (shims / name).chmod(0o755)
    path, found = os.environ["PATH"], collections.Counter[str]()
    os.environ["PATH"] = f"{shims}:{path}"
    try:
        yield found
    finally:
        os.environ["PATH"] = path
        found.update(calls.read_text().split())
        shutil.rmtree(shims)
