"""What a search over many samples takes in memory, in a process of its own: `python -m bench.cot.memory FOLDER KEY`."""

import subprocess
import sys
import time
from pathlib import Path

from bench.cot import ours, shards
from bench.cot.canned import Canned
from bench.cot.fake import COMMAND, scripted
from bench.figures import Figures

FEW, MANY = 2_000, 20_000
ALL = 100_000
SIZE, IMAGES = 256, 50
SETTINGS = {"max_num_seqs": 64, "images": 1, "shutdown_timeout_s": 1}
GOAL_MB = 300


def measure(folder: Path, figures: Figures, whole: bool) -> None:
    """The resident set at its highest of the process that searches; its server, which is another one, is not counted."""
    counts = (FEW, ALL) if whole else (FEW, MANY)
    found = []
    for count in counts:
        shards.write(folder / "shards" / "bench" / f"{count}.h5", count, SIZE, distinct=IMAGES)
        with scripted(folder):
            command = [sys.executable, "-m", "bench.cot.memory", str(folder), str(count)]
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=1800)
        if done.returncode:
            raise RuntimeError(done.stderr[-3000:])
        megabytes, seconds, calls, torch = done.stdout.splitlines()[-1].split()
        assert torch == "False", "torch was imported"
        found.append(float(megabytes))
        print(
            f"{count} samples: {float(megabytes):.0f} MB at most, {calls} calls in {float(seconds):.0f} s", flush=True
        )
    figures.add("client_memory", found[-1], f"MB at {counts[-1]} samples", found[0], GOAL_MB)
    figures.add("client_memory_growth", (found[-1] - found[0]) / (counts[-1] - counts[0]) * 1e3, "KB a sample")


def main(folder: Path, key: str) -> None:
    """Collect, and print the memory of this process."""
    canned = Canned(refused=(0,))  # four calls a sample
    began = time.monotonic()
    with ours.opened(ours.settings(folder, f"server-{key}", SETTINGS), COMMAND) as (servers, _):
        done = ours.run([key], servers, ours.settings(folder, key, SETTINGS), canned)
    # Not ru_maxrss, which a process takes over from the one that started it.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    most = int(status["VmHWM"].split()[0]) / 1024
    print(most, time.monotonic() - began, done.calls, "torch" in sys.modules)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
