"""`make bench-sft`: samples/s of fine-tuning compared with Hugging Face's Trainer with DeepSpeed, in the same run.

A tiny model on drawn images, less than one epoch, so that no image is seen twice. Two ranks over gloo, ZeRO-2, one thread
each; the same model, samples of a step, optimiser and learning rate: the losses are compared, too. Ours runs with padded rows,
and packed. The Trainer runs with the model's processor as its collator in a worker process, as is usual, and with this
project's collator. Contenders take turns, `--rounds` times; a figure is the median of its rounds.

like: reports on images of one size, in our order, which puts samples of similar length together, for all. mixed: reports of 40
tokens beside chains of thought of 600, on images of three sizes; steps of 32 samples that are drawn at random, the same for
all but `packed_windows`, which has the order of our recipes (sorted within 64 steps). The Trainer cuts a step into passes as
its sampler draws them.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.figures import Figures
from bench.sft import ranks
from bench.sft.parts import LIKE, PARTS, WARM, WORLD, Part, prepare

ROOT = Path(__file__).resolve().parents[2]


def main(argv: list[str]) -> int:
    """Run the benchmark. Returns the exit code."""
    options = argparse.ArgumentParser(prog="bench.sft", description=__doc__)
    options.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--rank", nargs=3, help=argparse.SUPPRESS)
    args = options.parse_args(argv)
    if args.rank:
        ranks.run(Path(args.rank[0]), PARTS[args.rank[1]], args.rank[2])
        return 0
    began, figures = time.monotonic(), Figures("sft")
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; Python {sys.version.split()[0]},"
        + "".join(f" {name} {version(name)}" for name in ("torch", "transformers", "accelerate", "deepspeed")),
        flush=True,
    )
    for name in args.parts or PARTS:
        part = PARTS[name]
        print(
            f"{name}: {WORLD} ranks, {part.steps} steps of {part.global_batch} samples, the first {WARM} not counted",
            flush=True,
        )
        _report(figures, part, _measure(part, args.rounds))
    print(f"{time.monotonic() - began:.0f} s in all; load at the end {os.getloadavg()[0]:.1f}")
    print(figures.line())
    return 0


def _measure(part: Part, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Rows of each contender, one a round."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in part.contenders}
    with tempfile.TemporaryDirectory(prefix="bench-sft-") as folder:
        prepare(Path(folder), part)
        for number in range(rounds):
            for name in part.contenders:
                row = _run(Path(folder), part, name)
                found[name].append(row)
                print(f"round {number + 1}: {name}: {row['samples_per_s']:.2f} samples/s", flush=True)
    return found


def _report(figures: Figures, part: Part, found: dict[str, list[dict[str, Any]]]) -> None:
    """The figures of a part. The losses of `packed_windows` are of other steps."""
    rates = {name: statistics.median(row["samples_per_s"] for row in rows) for name, rows in found.items()}
    if part is LIKE:
        for name in part.contenders[1:]:
            figures.add(f"samples_per_s_beside_{name}", rates["ours"], "1/s", rates[name], 1.0, least=True, of="ratio")
            figures.add(f"loss_difference_{name}", _difference(found["ours"], found[name]), "", goal=0.02)
        waits = statistics.median(row["data_wait"] for row in found["ours"])
        figures.add("data_wait_share", waits, "", goal=0.01)
        return
    theirs = rates["trainer_our_collator"]
    figures.add("mixed_samples_per_s", rates["packed"], "1/s", theirs, 1.5, least=True, of="ratio")
    figures.add("mixed_samples_per_s_padded", rates["ours"], "1/s", theirs)
    figures.add("mixed_samples_per_s_packed_windows", rates["packed_windows"], "1/s", theirs)
    figures.add("mixed_samples_per_s_beside_trainer", rates["packed"], "1/s", rates["trainer"])
    for name in ("ours", "trainer", "trainer_our_collator"):
        figures.add(f"mixed_loss_difference_{name}", _difference(found["packed"], found[name]), "", goal=0.001)


def _difference(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> float:
    """Largest difference of a step's loss, as a share of it."""
    return max(abs(own / other - 1) for own, other in zip(ours[0]["losses"], theirs[0]["losses"], strict=True))


def _run(root: Path, part: Part, name: str) -> dict[str, Any]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": str(WORLD),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "bench.sft", "--rank", str(root), part.name, name]
    processes = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(WORLD)
    ]
    said = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit(f"{name} failed:\n" + "\n".join(said))
    row: dict[str, Any] = json.loads((root / f"{name}.json").read_text())
    return row


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
