"""What planning and submitting costs: whole processes, alternating, nothing starts while they are timed."""

import shutil
import statistics
import sys
import time
from pathlib import Path

from bench import runs
from bench.cluster import counted
from bench.figures import Figures
from bench.runs import Spec
from diagcot.jobs.environment import code as codes

REPEATS = {1_000: 5, 10_000: 3, 100_000: 2, 1_000_000: 2}
CHUNKS = (
    4000  # tasks that submitit's and datatrove's users cut so many units into; ours cuts by itself, at most as many
)
GOALS = {1_000_000: 1.5}
SBATCHES = 20
QUESTIONS = (["scontrol", "show", "config"], ["scontrol", "show", "config"], ["squeue", "-r", "-h"])
"""What ours asks before it submits: whether Slurm answers, its limits, and the jobs that count against them."""
FINALISER = ["sbatch", "--hold", "--partition", "cpu", "--output", "/dev/null", "--wrap", "true"]
"""The others have no job that waits for a stage's end and runs again what failed."""
IMPORTS = "from diagcot.jobs import Cluster, Pipeline, Plan, Unit"


def measure(folder: Path, figures: Figures, array_size: int) -> None:
    """Jobs do not start meanwhile: their partition is down."""
    starts = {contender: runs.start_of_python(contender) for contender in runs.SCRIPTS}
    print("python -c pass: " + ", ".join(f"{name} {seconds:.3f} s" for name, seconds in starts.items()))
    imports = statistics.median(runs.process([sys.executable, "-c", IMPORTS])[0] for _ in range(7)) - starts["ours"]
    copy = statistics.median(_copy(folder / f"code{number}") for number in range(5))
    asked = statistics.median(sum(runs.process(command)[0] for command in QUESTIONS) for _ in range(7))
    finaliser = statistics.median(runs.process(FINALISER)[0] for _ in range(7))
    runs.cancel()
    print(
        f"of ours, imports take {imports:.3f} s, and what the others do not do: the copy of the code {copy:.3f} s, questions"
        f" to Slurm {asked:.3f} s, and a finaliser's sbatch {finaliser:.3f} s"
    )
    figures.add("submit_imports", imports, "s")
    figures.add("submit_copy_of_the_code", copy, "s")
    figures.add("submit_questions_to_slurm", asked, "s")
    figures.add("submit_finaliser", finaliser, "s")
    print(f"{'units':>9}  {'':<10} {'in all':>8} {'beyond Python':>14} {'sbatch':>7} {'Slurm commands':>15}")
    for units, repeats in REPEATS.items():
        chunks = CHUNKS if units > array_size else 0
        found: dict[str, list[float]] = {name: [] for name in runs.SCRIPTS}
        calls: dict[str, dict[str, int]] = {}
        for repeat in range(repeats + 1):
            for name in runs.SCRIPTS:
                spec = Spec(f"submit-{name}", str(folder / name), units, chunks=chunks, array_size=array_size)
                if repeat == 0:  # a warm-up, in which commands are counted: the shims cost a millisecond each
                    with counted(folder) as calls[name]:
                        runs.launch(name, spec)
                else:
                    found[name].append(runs.launch(name, spec)[0])
                runs.cancel()
                shutil.rmtree(spec.folder)
        medians = {name: statistics.median(times) for name, times in found.items()}
        beyond = {name: medians[name] - starts[name] for name in medians}
        for name in runs.SCRIPTS:
            how = f", cut into {chunks} by hand" if chunks and name != "ours" else ""
            print(
                f"{units:>9}  {name:<10} {medians[name]:>7.2f}s {beyond[name]:>13.3f}s"
                f" {calls[name].get('sbatch', 0):>7} {sum(calls[name].values()):>15}{how}",
                flush=True,
            )
        value = medians if units == max(REPEATS) else beyond  # as the goals are put
        for peer in ("submitit", "datatrove"):
            figures.add(
                f"submit_{units}_vs_{peer}",
                value["ours"],
                "s",
                value[peer],
                1.0 if (first := units == min(REPEATS) and peer == "datatrove") else GOALS.get(units),
                of="ratio" if first else "value",
            )
        if units == min(REPEATS):
            alike = value["ours"] - copy - asked - finaliser
            figures.add(f"submit_{units}_of_the_same_work", alike, "s", value["datatrove"], of="ratio")
        figures.add(f"sbatch_calls_{units}", calls["ours"]["sbatch"], "calls", calls["submitit"]["sbatch"], SBATCHES)
    _refused(folder, array_size)


def _copy(target: Path) -> float:
    began = time.perf_counter()
    target.parent.mkdir(parents=True, exist_ok=True)
    codes.snapshot([codes.PACKAGE], target)
    return time.perf_counter() - began


def _refused(folder: Path, array_size: int) -> None:
    """What plain map_array says of one unit more than MaxArraySize allows."""
    spec = Spec("refused", str(folder / "refused"), array_size + 1, array_size=array_size)
    seconds, said = runs.launch("submitit", spec, check=False)
    print(f"submitit.map_array of {array_size + 1} units, a task each: refused after {seconds:.1f} s: {said[-160:]}")
    if not said:
        raise RuntimeError("submitit.map_array was expected to be refused beyond MaxArraySize")
    shutil.rmtree(spec.folder)
