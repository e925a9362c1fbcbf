"""A tree of 100,000 studies in MIMIC-CXR-JPG's layout is indexed, split and sharded: seconds and memory.

`python -m bench.sharding.scale TREE OUT SHARDS PART` builds one shard and tells what it took at most.
"""

import os
import resource
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from bench.figures import Figures
from bench.sharding import tree
from diagcot.jobs import Unit
from diagcot.jobs.testing import context, run_unit
from diagcot.shards import Shard, build, shard_paths

FEW, MANY = 12_500, 100_000
GROWTH = 256
"""Bytes: MIMIC-CXR's 227,835 studies would take 58 MB in each task. A few numbers of every image have to be known."""
EACH = 6_250
"""Studies a shard, in both trees: what a task takes should depend on its shard, not on the collection."""


def measure(folder: Path, figures: Figures) -> None:
    """Measure, and add the figures."""
    folder.mkdir(exist_ok=True)
    images = tree.images(8, (64, 64))
    peaks: dict[int, float] = {}
    for studies in (FEW, MANY):
        began = time.monotonic()
        root = tree.write(folder / f"tree{studies}", images, studies)
        print(f"{studies} studies written in {time.monotonic() - began:.0f} s", flush=True)
        peaks[studies] = _shards(root, folder / f"shards{studies}", studies, studies // EACH, figures)
    growth = (peaks[MANY] - peaks[FEW]) * 1e6 / (MANY - FEW)
    print(f"a study more in the collection takes {growth:.0f} bytes more in each task")
    figures.add("scale_memory", peaks[MANY], f"MB at most in a task, {MANY} studies", peaks[FEW], 512)
    figures.add("scale_memory_growth", growth, "bytes a study of the whole collection in each task", None, GROWTH)


def _shards(root: Path, out: Path, studies: int, parts: int, figures: Figures) -> float:
    """All shards, as many tasks at a time as there are cores; returns the largest task's memory in MB."""
    began, peaks, left = time.monotonic(), [], list(range(parts))
    while left:
        now, left = left[: os.cpu_count()], left[os.cpu_count() or 1 :]
        command = [sys.executable, "-m", "bench.sharding.scale", str(root), str(out), str(parts)]
        tasks = [subprocess.Popen([*command, str(part)], stdout=subprocess.PIPE, text=True) for part in now]
        for task in tasks:
            said, _ = task.communicate()
            if task.returncode:
                raise RuntimeError("a task has failed")
            peaks.append(float(said))
    seconds = time.monotonic() - began
    splits: Counter[str] = Counter()
    patients: Counter[str] = Counter()
    images = []
    for path in shard_paths(out / "shards" / "test" / "shard"):
        shard = Shard(path)
        splits.update(shard.texts("studies/split"))
        patients.update(set(shard.texts("studies/patient")))
        images.append(shard.images)
    expected = sum(_is_test(k) for k in range(studies))
    whole = sum(images) == studies and splits["test"] == expected and max(patients.values()) == 1
    uneven = max(images) / min(images) - 1
    print(
        f"  {parts} shards in {seconds:.0f} s, {studies / seconds:.0f} studies/s, largest task {max(peaks):.0f} MB;"
        f" {sum(images)} images, splits {dict(splits)}, patients in two shards {sum(n > 1 for n in patients.values())},"
        f" sizes within {uneven:.1%}",
        flush=True,
    )
    if not whole:
        raise RuntimeError("studies were lost, met twice, or put into a wrong split")
    figures.add(f"scale_{studies}_rate", studies / seconds, "studies/s")
    figures.add(f"scale_{studies}_uneven", uneven, "largest ÷ smallest shard − 1", None, 0.05)
    return max(peaks)


def _is_test(study: int) -> bool:
    """As `tree.write` deals: patients of 1 to 8 studies by the number of their first."""
    return _patient(study) % 50 == 0


_PATIENTS: list[int] = []


def _patient(study: int) -> int:
    while len(_PATIENTS) <= study:
        first = len(_PATIENTS)
        patient = (_PATIENTS[-1] if _PATIENTS else 10_000_000) + 1
        _PATIENTS.extend([patient] * (1 + first % 8))
    return _PATIENTS[study]


def main(root: str, out: str, parts: str, part: str) -> None:
    """Build one shard, in a process whose memory is measured."""
    settings = {"sources": [{"kind": "mimic_cxr", "path": root}], "shards": int(parts), "image_size": 64}
    run_unit(build, Unit(f"{int(part):05d}"), context(Path(out), settings, stage="shard", cpus=1))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    main(*sys.argv[1:])
