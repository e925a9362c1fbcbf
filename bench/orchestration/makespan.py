"""What a chain costs beyond its critical path, element-wise and by whole stages.

Slurm's own part is measured by the same chain of shell scripts that only sleep: their makespan less the critical path is
what the scheduler needs for chains of this shape at these times, with no Python in them.
"""

import random
import statistics
import subprocess
import time
from pathlib import Path

from bench import runs
from bench.figures import Figures
from bench.runs import Spec

# So narrow and so long that two cores are no bottleneck: a task costs half a second of CPU before it sleeps.
STAGES, WIDTH, SEED = 3, 12, 5
MEAN_S, SHORTEST_S, LONGEST_S = 9.0, 1.0, 30.0
GOAL = 1.10
LINK_GOAL_S = 1.5
STAGGER_S = 6  # whole-stage chains run next to each other: they are compared by much, and mostly asleep
NAMES = {"shell": "shell scripts", "ours": "ours", "submitit": "submitit", "datatrove": "datatrove"}
Times = dict[tuple[int, int], tuple[float, float]]  # (stage, index) -> when its sleep began and ended


def durations() -> list[list[float]]:
    """Seconds by stage and index, exponentially distributed within bounds; the same in every run."""
    dice = random.Random(SEED)
    draw = [[dice.expovariate(1 / MEAN_S) for _ in range(WIDTH)] for _ in range(STAGES)]
    return [[round(min(LONGEST_S, max(SHORTEST_S, seconds)), 1) for seconds in row] for row in draw]


def critical(seconds: list[list[float]], each: bool) -> float:
    """Length of the critical path where all tasks of a stage have a task_index.

    >>> critical([[1, 5], [4, 1]], each=True), critical([[1, 5], [4, 1]], each=False)
    (6, 9)
    """
    if each:
        return max(sum(path) for path in zip(*seconds, strict=True))
    return sum(max(stage) for stage in seconds)


def measure(folder: Path, figures: Figures) -> None:
    """Measure, and add the figures."""
    seconds = durations()
    path, whole = critical(seconds, each=True), critical(seconds, each=False)
    total = sum(map(sum, seconds))
    print(
        f"{STAGES} stages × {WIDTH} tasks that sleep {SHORTEST_S:.0f} to {LONGEST_S:.0f} s (seed {SEED}), a task_index for each;"
        f" critical path {path:.1f} s element-wise, {whole:.1f} s by whole stages; {total:.0f} s of sleep in all"
    )
    found: dict[tuple[str, bool], float] = {}
    links: dict[tuple[str, bool], float] = {}

    def measured(name: str, each: bool, spec: Spec, began: float) -> None:
        times = _times(spec)
        found[name, each] = max(end for _, end in times.values()) - began
        links[name, each] = _link(times, each)

    for name in ("shell", "ours", "submitit"):  # each alone, for these are compared by seconds
        spec = _spec(folder, name, seconds, each=True)
        began = _start(name, spec)
        _wait(spec, began)
        measured(name, True, spec, began)
    started = []
    for name in ("ours", "submitit", "datatrove"):
        spec = _spec(folder, name, seconds, each=False)
        started.append((name, spec, _start(name, spec)))
        time.sleep(STAGGER_S)
    for name, spec, began in started:
        _wait(spec, began)
        measured(name, False, spec, began)
    latency = found["shell", True] - path
    print(f"{'edges':<13} {'':<14} {'makespan':>9} {'÷ path':>7} {'less latency':>13} {'a link':>8}")
    for (name, each), makespan in found.items():
        bound = path if each else whole
        net = f"{(makespan - latency) / bound:.3f}" if each else "-"
        print(
            f"{'element-wise' if each else 'whole stages':<13} {NAMES[name]:<14} {makespan:>8.1f}s"
            f" {makespan / bound:>7.3f} {net:>13} {links[name, each]:>7.2f}s"
        )
    print(f"scheduler latency {latency:.2f} s: the shell scripts' makespan less the critical path")
    mine = found["ours", True]
    figures.add("scheduler_latency", latency, "s")
    figures.add("makespan_element_wise", mine, "s", found["submitit", True])
    figures.add("makespan_over_critical_path", (mine - latency) / path, "ratio", goal=GOAL)
    figures.add("end_to_follower", links["ours", True], "s", links["submitit", True], LINK_GOAL_S)
    figures.add("makespan_whole_stages", found["ours", False], "s", found["submitit", False])
    figures.add("makespan_whole_stages_vs_datatrove", found["ours", False], "s", found["datatrove", False])
    figures.add("element_wise_over_whole_stages", mine, "s", found["ours", False])


def _spec(folder: Path, name: str, seconds: list[list[float]], each: bool) -> Spec:
    kind = "each" if each else "whole"
    return Spec(f"{kind}-{name}", str(folder / kind / name), WIDTH, STAGES, seconds, each, parallel=WIDTH)


def _start(name: str, spec: Spec) -> float:
    """Submit the chain; the time before the launcher was started."""
    began = time.time()
    if name == "shell":
        _shell(spec)
    else:
        runs.launch(name, spec)
    return began


def _shell(spec: Spec) -> None:
    spec.out.mkdir(parents=True)
    job = ""
    for stage, row in enumerate(spec.seconds):
        text = (
            f"#!/bin/sh\nset -- {' '.join(map(str, row))}\nshift $SLURM_ARRAY_TASK_ID\nbegan=$(date +%s.%N)\nsleep $1\n"
            f"echo $began $(date +%s.%N) > {spec.out}/{stage}.$SLURM_ARRAY_TASK_ID\n"
        )
        options = ["--parsable", "-p", "cpu", "-t", "60", "--mem", "200", "-o", "/dev/null", "-J", spec.name]
        options += [f"--array=0-{len(row) - 1}", *([f"--dependency=aftercorr:{job}"] if job else [])]
        job = subprocess.run(
            ["sbatch", *options], input=text, text=True, check=True, capture_output=True, timeout=60
        ).stdout.strip()


def _wait(spec: Spec, began: float) -> None:
    limit = 120 + 2 * critical(spec.seconds, each=False)
    while len(list(spec.out.glob("[0-9]*"))) < STAGES * WIDTH:
        if time.time() > began + limit:
            raise TimeoutError(
                f"{spec.name}: {len(list(spec.out.glob('[0-9]*')))} of {STAGES * WIDTH} after {limit:.0f} s"
            )
        time.sleep(0.1)


def _times(spec: Spec) -> Times:
    found = {}
    for path in spec.out.glob("[0-9]*"):
        stage, index = map(int, path.name.split("."))
        began, ended = map(float, path.read_text().split())
        found[stage, index] = (began, ended)
    return found


def _link(times: Times, each: bool) -> float:
    """Seconds from the end of what a task follows to its own beginning, the median over all links."""
    gaps = []
    for (stage, index), (began, _) in times.items():
        if stage:
            before = [times[stage - 1, k][1] for k in ([index] if each else range(WIDTH))]
            gaps.append(began - max(before))
    return statistics.median(gaps)
