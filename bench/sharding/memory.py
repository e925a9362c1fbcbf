"""What a million images take in memory, in a process of its own: `python -m bench.sharding.memory FOLDER`."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from bench.figures import Figures
from bench.sharding import tree
from diagcot.data.pixels import Jpeg
from diagcot.data.study import Image, Study
from diagcot.shards import Shard, shard_paths
from diagcot.shards.dataset import ShardDataset, ShardSampler
from diagcot.shards.writer import ShardWriter

RECORDS, SHARDS = 1_000_000, 100
READS = 200_000


def measure(folder: Path, figures: Figures) -> None:
    """100 shards of 10,000 images of 200 bytes, each a study with a report: names of one file, which no reader knows."""
    folder.mkdir()
    first = folder / "00000.h5"
    image = Jpeg(bytes(200), 1, 1, False)
    with ShardWriter(first) as writer:
        for k in range(RECORDS // SHARDS):
            shown = Image(f"{k:040x}", "PA", 1, 1)
            writer.add(
                Study("bench", f"{k}", f"{k}", "train", findings=tree.REPORT.format(k), images=(shown,)), [image]
            )
    for part in range(1, SHARDS):
        os.link(first, folder / f"{part:05d}.h5")
    run = subprocess.run(
        [sys.executable, "-m", "bench.sharding.memory", str(folder)], capture_output=True, text=True, check=True
    )
    reading, all_of_it, grown = map(float, run.stdout.split())
    print(
        f"{RECORDS} images in {SHARDS} shards: {reading / RECORDS:.0f} bytes each to read images in random order,"
        f" {all_of_it / RECORDS:.0f} when every column was used; {READS} reads later {grown / 1e6:+.1f} MB"
    )
    for name, value in (("memory_reading", reading), ("memory_all_columns", all_of_it)):
        figures.add(name, value / RECORDS, "bytes an image", None, 100)
    figures.add("memory_growth", grown / RECORDS, f"bytes an image after {READS} reads", None, 5)


def _resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main(folder: Path) -> None:
    """Read, and print the memory of this process."""
    small = ShardDataset(shard_paths(folder)[:1], transform=Shard.jpeg)  # what is loaded once is loaded
    small[0], small.shards[0].study(0), next(iter(ShardSampler(1)))
    before = _resident()
    data = ShardDataset(shard_paths(folder), transform=Shard.jpeg)
    order = iter(ShardSampler(len(data)))
    for _ in range(READS):
        data[next(order)]
    reading = _resident() - before
    for shard in data.shards:
        shard.study(int(np.random.default_rng(0).integers(len(shard))))
        shard.study_of(0)
    everything = _resident() - before
    for _ in range(READS):
        shard, row = data.place(next(order))
        shard.jpeg(row), shard.study(shard.study_of(row))
    print(reading, everything, _resident() - before - everything)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
