"""`make bench-gpu`: what has never run on a GPU, part by part, the most important first, in at most `--minutes` in all.

Models of real shapes with random weights: steps of supervised fine-tuning (language model and merger) with padded rows, packed
rows, and with the logits of whole passes; alignment (contrastive and language-model loss on the merger); GRPO (scoring by policy
and reference, then one update); a checkpoint and going on from it; merging an adapter; a vLLM server with sleep and new
weights. Every part runs in processes of its own on all GPUs by ZeRO-2 (merge and server on one). Its row is appended to the file
of results as soon as it ends, and a part that fails is a row with its error: the next one follows. Nothing is downloaded.
SHAPE=3b, 7b, or tiny, which runs on CPUs too and shows that the code path is whole; its figures mean nothing.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.figures import Figures
from bench.gpu.shapes import SHAPES, TEXT, visual_tokens

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("sft", "sft_packed", "grpo", "checkpoint", "server", "sft_logits", "align", "merge")
ONE_RANK = ("merge", "server")
MINUTES = 12.0
UNITS = {
    "tokens_per_s": "1/s", "tflops_per_gpu": "TFLOP/s", "tokens": "", "parameters": "", "loss_difference": "nats",
    "seconds": "s",
}  # fmt: skip


def main(argv: list[str]) -> int:
    """Run the parts. Returns the exit code: 1 if one of them failed."""
    options = argparse.ArgumentParser(prog="bench.gpu", description=__doc__)
    options.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    options.add_argument("--shape", choices=list(SHAPES), default="7b")
    options.add_argument("--minutes", type=float, default=MINUTES, help="for all parts together")
    options.add_argument(
        "--out", type=Path, help="file of results, a JSON line for each part (default: build/bench/gpu-SHAPE.jsonl)"
    )
    args = options.parse_args(argv)
    import torch

    count = torch.cuda.device_count()
    if not count and args.shape != "tiny":
        print(f"no GPU here: {args.shape} is measured on one; SHAPE=tiny runs on a CPU", file=sys.stderr)
        return 1
    device = torch.cuda.get_device_name(0) if count else f"CPU, load {os.getloadavg()[0]:.1f}"
    print(
        f"{count or 1} × {device}; torch {torch.__version__}, DeepSpeed {version('deepspeed')}, transformers"
        f" {version('transformers')}; {args.shape}, ZeRO-2, {'bf16' if count else 'fp32'}, gradient checkpointing;"
        f" samples of {visual_tokens(args.shape)} visual and, on average, {TEXT} text tokens",
        flush=True,
    )
    out = args.out or ROOT / "build" / "bench" / f"gpu-{args.shape}.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    end, figures, failed = time.monotonic() + 60 * args.minutes, Figures("gpu"), []
    for part in args.parts or PARTS:
        row = _run(part, args.shape, 1 if part in ONE_RANK else count or 1, end - time.monotonic())
        row |= {"part": part, "shape": args.shape, "device": device, "ended": datetime.now().isoformat("T", "seconds")}
        with out.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")
        if error := row.get("error"):
            failed.append(part)
            print(f"{part}: failed after {row['seconds']:.0f} s: {error}", flush=True)
            continue
        _add(figures, f"{args.shape}_{part}", row["figures"], device)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in row["figures"].items())
        print(f"{part}: {shown} ({row['seconds']:.0f} s)", flush=True)
    print(figures.line())
    if failed:
        print(f"{len(failed)} parts failed: {', '.join(failed)}; their errors are in {out}", file=sys.stderr)
    return 1 if failed else 0


def _run(part: str, shape: str, world: int, left_s: float) -> dict[str, Any]:
    """A part in processes of its own, in at most `left_s` seconds: its seconds, and its figures or its error."""
    began = time.monotonic()
    if left_s <= 0:
        return {"seconds": 0.0, "error": "no time was left for it (--minutes)"}
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(world)}
        free.close()
        command, log = [sys.executable, "-m", "bench.gpu.rank", shape, part, folder], Path(folder) / "log"
        with log.open("w") as said:
            ranks = [
                subprocess.Popen(
                    command, cwd=ROOT, env=os.environ | shared | {"RANK": str(k), "LOCAL_RANK": str(k)},
                    stdout=said, stderr=subprocess.STDOUT, start_new_session=True,
                )
                for k in range(world)
            ]  # fmt: skip
            error = _wait(ranks, began + left_s)
        seconds = time.monotonic() - began
        if not error:
            return {"seconds": seconds, "figures": json.loads((Path(folder) / "row.json").read_text())}
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        print("\n".join(lines[-20:]), file=sys.stderr, flush=True)
        return {"seconds": seconds, "error": error, "last": lines[-1:]}


def _wait(ranks: list[subprocess.Popen[bytes]], end: float) -> str:
    """Wait for all; what went wrong, or nothing. Where one fails or time is up, all are ended with their children."""
    error = ""
    while not error and any(rank.poll() is None for rank in ranks):
        time.sleep(0.1)
        if time.monotonic() > end:
            error = "its time was up (--minutes)"
        elif codes := [rank.returncode for rank in ranks if rank.returncode]:
            error = f"a rank ended with {codes[0]}"
    error = error or next((f"a rank ended with {rank.returncode}" for rank in ranks if rank.returncode), "")
    for rank in ranks if error else ():
        try:
            os.killpg(rank.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    for rank in ranks:
        rank.wait()
    return error


def _add(figures: Figures, name: str, row: dict[str, float], device: str) -> None:
    from diagcot.training.cost import peak_flops

    for key, value in row.items():
        if key == "estimated_gb":
            continue
        unit = UNITS.get(key, key.rpartition("_")[2].replace("gb", "GB"))
        figures.add(f"{name}_{key}", value, unit, baseline=row.get("estimated_gb") if key == "memory_gb" else None)
    if (peak := peak_flops(device)) and "tflops_per_gpu" in row:
        figures.add(f"{name}_mfu", row["tflops_per_gpu"] * 1e12 / peak, "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
