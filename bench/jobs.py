"""`make bench-jobs`: planning, submission, status and chains, compared with plain submitit and datatrove, on a real Slurm.

The cluster is the development cluster: real daemons, virtual nodes. Ends with one JSON line (see `bench.figures`).
"""

import argparse
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import runs
from bench.cluster import cluster
from bench.figures import Figures
from bench.orchestration import makespan, status, submission

PARTS = ("submission", "status", "makespan")
NODES = 4  # of 16 CPUs


def main(argv: list[str]) -> int:
    """Run the benchmark. Returns the exit code."""
    options = argparse.ArgumentParser(prog="bench.jobs", description=__doc__)
    options.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parts = options.parse_args(argv).parts or PARTS
    began, figures = time.monotonic(), Figures("jobs")
    runs.install()
    _conditions()
    folder = Path(tempfile.mkdtemp(prefix="bench-jobs-", dir="/tmp"))
    try:
        with cluster(NODES):
            array_size = int(_slurm("MaxArraySize"))
            _partition("DOWN")  # nothing is to start while submission and status are timed
            if "submission" in parts:
                submission.measure(folder / "submission", figures, array_size)
            if "status" in parts:
                status.measure(folder / "status", figures, array_size)
            _partition("UP")
            if "makespan" in parts:
                makespan.measure(folder / "makespan", figures)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{time.monotonic() - began:.0f} s in all; load at the end {os.getloadavg()[0]:.1f}")
    print(figures.line())
    return 0


def _conditions() -> None:
    said = subprocess.run(
        [runs.python("datatrove"), "-c", "from importlib.metadata import version; print(version('datatrove'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    slurm = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Version}", "slurmctld"], check=False, capture_output=True, text=True
    )
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; Slurm {slurm.stdout or 'of unknown version'};"
        f" Python {sys.version.split()[0]}, submitit {importlib.metadata.version('submitit')},"
        f" datatrove {said.stdout.strip()}; development cluster of {NODES} × 16 CPUs",
        flush=True,
    )


def _partition(state: str) -> None:
    subprocess.run(["scontrol", "update", "PartitionName=cpu", f"State={state}"], check=True, timeout=60)


def _slurm(key: str) -> str:
    from diagcot.jobs.slurm.commands import config

    return config()[key]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
