"""What it costs to see where a run of 10^6 units stands: whole processes, half of the units done, the rest queued."""

import itertools
import os
import shutil
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path

from bench import runs
from bench.cluster import counted
from bench.figures import Figures
from bench.runs import Spec

UNITS, DONE, FEW = 1_000_000, 500_000, 1_000
REPEATS = 2
LINKS = 50_000  # names that a file may have: 65,000 on ext4


def measure(folder: Path, figures: Figures, array_size: int) -> None:
    """Jobs do not start meanwhile: their partition is down."""
    big = Spec("status", str(folder / "big"), UNITS, chunks=4000, array_size=array_size)
    small = Spec("status-few", str(folder / "small"), FEW, array_size=array_size)
    for name in ("ours", "datatrove"):
        runs.launch(name, big)
    for name in ("ours", "submitit"):
        runs.launch(name, small)
    _fill(Path(big.folder) / "logs" / big.name / "0" / "done", (f"{k:07d}.json" for k in range(DONE)), "{}\n")
    _fill(Path(big.folder) / "datatrove" / "0" / "completions", (f"{k:05d}" for k in range(DONE)), "")
    print(f"half of {UNITS} units are done, for ours and for datatrove", flush=True)
    asked = {
        (UNITS, "ours"): _ours(big),
        (UNITS, "datatrove"): [str(runs.ENVIRONMENT / "bin" / "jobs_status"), f"{big.folder}/datatrove"],
        (FEW, "ours"): _ours(small),
        (FEW, "submitit"): [
            sys.executable, str(runs.HERE / "submitit_status.py"), f"{small.folder}/submitit/0",
        ],
    }  # fmt: skip
    calls: dict[tuple[int, str], dict[str, int]] = {}
    found: dict[tuple[int, str], list[float]] = {key: [] for key in asked}
    for repeat in range(REPEATS + 1):
        for key, command in asked.items():
            if repeat == 0:
                with counted(folder) as calls[key]:
                    runs.process(command)
            else:
                found[key].append(runs.process(command)[0])
    medians = {key: statistics.median(times) for key, times in found.items()}
    print(f"{'status of':>9}  {'':<10} {'in all':>8} {'Slurm commands':>15}")
    for (units, name), seconds in medians.items():
        print(f"{units:>9}  {name:<10} {seconds:>7.2f}s {sum(calls[units, name].values()):>15}")
    for units, peer, goal in ((UNITS, "datatrove", 0.8), (FEW, "submitit", None)):
        figures.add(f"status_{units}_vs_{peer}", medians[units, "ours"], "s", medians[units, peer], goal)
    figures.add(f"status_{UNITS}_processes", sum(calls[UNITS, "ours"].values()), "processes", None, 2)
    runs.cancel()
    shutil.rmtree(folder)


def _ours(spec: Spec) -> list[str]:
    return [sys.executable, "-m", "diagcot", "status", "--run", spec.name, "--logs", f"{spec.folder}/logs"]


def _fill(folder: Path, names: Iterable[str], text: str) -> None:
    """Files of the same content: names of few files, because making half a million files takes minutes."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in itertools.count():
        some = list(itertools.islice(names, LINKS))
        if not some:
            return
        source = folder.parent / f".source{part}"
        source.write_text(text)
        for name in some:
            os.link(source, folder / name)
        source.unlink()
