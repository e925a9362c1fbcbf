"""`python -m bench.scale`: all 227,827 studies of MIMIC-CXR planned, submitted, run with scaled-down sleeps, finished.

300 virtual nodes of the development cluster, one task at a time on each (`--nodes 1000 --tasks 2000`: an array of 2,000
tasks on 1,000 nodes). Every study must have been run and published exactly once. Slurm's commands are counted. Ends with one
JSON line (see `bench.figures`).
"""

import argparse
import collections
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from bench import runs
from bench.cluster import cluster, counted
from bench.figures import Figures

STUDIES, NODES = 227_827, 300
NODE_MB, RUNNING_MB = 3, 18  # of memory: a node's daemon, and a task that runs (srun, slurmstepd, Python)
LIMIT_S, TASK_S = 1500, 2  # of a run; for each task besides, as a busy machine with two cores starts one


def main(argv: list[str]) -> int:
    """Run the benchmark. Returns the exit code."""
    options = argparse.ArgumentParser(prog="bench.scale", description=__doc__)
    options.add_argument("--studies", type=int, default=STUDIES)
    options.add_argument("--nodes", type=int, default=NODES)
    options.add_argument("--stages", type=int, default=1, help="linked element-wise")
    options.add_argument("--tasks", type=int, default=0, help="of a stage; 0: packed by a server's start of 180 s")
    options.add_argument("--failing", type=int, default=0, help="every so manyth task fails once; 0: none")
    args = options.parse_args(argv)
    needed, free = args.nodes * (NODE_MB + RUNNING_MB), _free_mb()
    if needed > free:
        print(
            f"error: {args.nodes} nodes that all run a task need {needed / 1000:.1f} GB of memory, and {free / 1000:.1f} GB are"
            f" free: at most --nodes {free // (NODE_MB + RUNNING_MB)} here",
            file=sys.stderr,
        )
        return 2
    figures = Figures("scale")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {args.nodes} virtual nodes", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-scale-", dir="/tmp"))
    try:
        with cluster(args.nodes, accounting=False, crowded=True) as slurm:
            _run(args, folder, slurm, figures)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(figures.line())
    return 0


def _run(args: argparse.Namespace, folder: Path, slurm: Path, figures: Figures) -> None:
    (folder / "ran").mkdir()
    began = time.monotonic()
    command = [sys.executable, str(runs.HERE / "all_of_mimic.py"), str(folder)]
    command += [str(number) for number in (args.studies, args.stages, args.tasks, args.failing)]
    with counted(folder) as calls:
        said = subprocess.run(
            command, env=runs.environment(), check=True, capture_output=True, text=True
        ).stdout.strip()
        submitted = time.monotonic() - began
        memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(f"{said}; submitted in {submitted:.2f} s with {memory:.0f} MB", flush=True)
        summaries = [folder / "logs" / "mimic" / f"cot{stage}" / "summary.json" for stage in range(args.stages)]
        worked = _await(summaries, args.studies, began, LIMIT_S + TASK_S * args.tasks * args.stages)
        seconds = time.monotonic() - began
    by_jobs = {name.removesuffix("@job"): count for name, count in calls.items() if name.endswith("@job")}
    launched = {name: count for name, count in calls.items() if not name.endswith("@job")}
    print(f"Slurm's commands: by the launcher {_told(launched)}; by all jobs together {_told(by_jobs)}")
    stages = [json.loads(path.read_text()) for path in summaries]
    ran = collections.Counter[str]()
    for path in (folder / "ran").iterdir():
        stage = path.name.partition(".")[0]
        ran.update(f"{stage}/{key}" for key in path.read_text().split())
    done = sum(len(os.listdir(path.parent / "done")) for path in summaries)
    wanted = args.studies * args.stages
    right = all(
        row["state"] == "done" and row["units"] == row["counts"]["studies"] == args.studies and not row["missing"]
        for row in stages
    )
    once = sum(count == 1 for count in ran.values())
    ctld = _ctld(slurm)
    print(
        f"{done} of {wanted} published; {once} run exactly once, {len(ran) - once} more often; summaries"
        f" {'right' if right else 'WRONG'}; {sum(row['failures'] for row in stages)} failures,"
        f" {sum(row['attempts'] for row in stages)} submissions"
    )
    print(
        f"{seconds:.0f} s from the launcher's start to the last summary, {seconds - worked:.0f} s of them the finaliser"
        f" after the last study; slurmctld {ctld[0]:.0f} MB, {ctld[1]:.0f} s of CPU; load {os.getloadavg()[0]:.1f}"
    )
    for again in [sent for row in stages for sent in row["submissions"] if sent["by"] == "finaliser"]:
        print(f"submitted again by the finaliser: {again['tasks']} tasks: {again['why']}")
    if not (done == once == len(ran) == wanted and right):
        raise SystemExit("the run is not what it should be")
    figures.add("submit", submitted, "s")
    figures.add("launcher_memory", memory, "MB")
    figures.add("makespan", seconds, "s")
    figures.add("units_per_second", wanted / seconds, "1/s")
    figures.add("slurmctld_memory", ctld[0], "MB")
    figures.add("slurmctld_cpu", ctld[1], "s")
    figures.add("not_exactly_once", wanted - once, "units", goal=0)


def _told(calls: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(calls.items())) or "none"


def _await(summaries: list[Path], studies: int, began: float, limit_s: float) -> float:
    """Wait for all summaries, telling how far it is; when the last study was seen done, in seconds after `began`."""
    printed, worked = 0.0, 0.0
    while not all(path.exists() for path in summaries):
        now = time.monotonic() - began
        if now > limit_s:
            left = subprocess.run(["squeue"], check=False, capture_output=True, text=True, timeout=60).stdout[-2000:]
            raise TimeoutError(f"not finished after {limit_s:.0f} s; the queue:\n{left}")
        if now > printed + 10 or worked == 0:
            done = sum(len(os.listdir(p.parent / "done")) for p in summaries if (p.parent / "done").exists())
            if done >= studies * len(summaries) and not worked:
                worked = now
            if now > printed + 10:
                printed = now
                print(f"{now:5.0f} s  {done} done", flush=True)
        time.sleep(1)
    return worked or time.monotonic() - began


def _free_mb() -> int:
    """Memory that is available on this machine, in MB (proc(5))."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) // 1000


def _ctld(slurm: Path) -> tuple[float, float]:
    """slurmctld's largest memory in MB and its CPU seconds (proc(5))."""
    pid = (slurm / "run" / "slurmctld.pid").read_text().strip()
    status = Path(f"/proc/{pid}/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    ticks = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return peak / 1024, (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
