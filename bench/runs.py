"""The contenders of `make bench-jobs` as whole processes: ours, plain submitit, datatrove's Slurm executor."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.cluster import ROOT

HERE = Path(__file__).parent / "contenders"
ENVIRONMENT = ROOT / "build" / "bench" / "env"  # datatrove's, never the project's own
REQUIREMENTS = Path(__file__).parent / "requirements.txt"
SCRIPTS = {"ours": "ours.py", "submitit": "submitit_array.py", "datatrove": "datatrove_slurm.py"}


@dataclass(frozen=True)
class Spec:
    """What a contender submits: `stages` stages of `units` units, sleeping `seconds[stage][unit]`."""

    name: str
    folder: str
    units: int
    stages: int = 1
    seconds: list[list[float]] = field(default_factory=list)  # empty: no sleep
    each: bool = False  # unit k follows unit k, else stages follow as a whole
    chunks: int = 0  # for those who do not pack by themselves: so many tasks; 0: a task a unit
    parallel: int = 1000
    array_size: int = 20001

    @property
    def out(self) -> Path:
        """The folder of the files that show when the work was done."""
        return Path(self.folder) / "out"


def install() -> None:
    """The environment of the benchmarks, from exact versions; kept for the next time."""
    wanted = REQUIREMENTS.read_bytes()
    stamp = ENVIRONMENT / "requirements.txt"
    if stamp.exists() and stamp.read_bytes() == wanted:
        return
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
    pip = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "install", "-q", "-r", str(REQUIREMENTS)]
    subprocess.run(pip, check=True)
    stamp.write_bytes(wanted)


def python(contender: str) -> str:
    """The interpreter of a contender."""
    return str(ENVIRONMENT / "bin" / "python") if contender == "datatrove" else sys.executable


def environment() -> dict[str, str]:
    """The checkout before all that is installed, in the launchers and, through sbatch, in the jobs."""
    return {**os.environ, "PYTHONPATH": f"{ROOT}:{HERE}", "PYTHONDONTWRITEBYTECODE": ""}


def launch(contender: str, spec: Spec, check: bool = True) -> tuple[float, str]:
    """Submit; the seconds it took from the start of Python to its end, and what it said last if it failed."""
    Path(spec.folder).mkdir(parents=True, exist_ok=True)
    spec.out.mkdir(exist_ok=True)
    path = Path(spec.folder) / "spec.json"
    path.write_text(json.dumps(asdict(spec) | {"out": str(spec.out)}))
    return process([python(contender), str(HERE / SCRIPTS[contender]), str(path)], check)


def process(command: Sequence[str], check: bool = True) -> tuple[float, str]:
    """Run a command. Returns its seconds and its output."""
    began = time.perf_counter()
    done = subprocess.run(command, check=False, env=environment(), capture_output=True, text=True, timeout=300)
    seconds = time.perf_counter() - began
    if done.returncode and check:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    said = (done.stderr or done.stdout).strip().splitlines() if done.returncode else []
    return seconds, said[-1] if said else ""


def start_of_python(contender: str, times: int = 7) -> float:
    """Seconds of `python -c pass`, the median."""
    return statistics.median(process([python(contender), "-c", "pass"])[0] for _ in range(times))


def cancel() -> None:
    """End all jobs of the benchmark's own cluster, and wait until they are gone."""
    subprocess.run(["scancel", "--user", str(os.getuid())], check=True, timeout=60)
    end = time.monotonic() + 60
    while subprocess.run(["squeue", "-h"], check=False, capture_output=True, text=True, timeout=60).stdout.strip():
        if time.monotonic() > end:
            raise TimeoutError("jobs that were cancelled are still there after a minute")
        time.sleep(0.2)
