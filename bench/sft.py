"""`make bench-sft`: samples/s of fine-tuning compared with Hugging Face's Trainer with DeepSpeed, in the same run.

A tiny model on drawn images of 256 pixels, less than one epoch, so that no image is seen twice. Two ranks over gloo, ZeRO-2,
one thread each; the same model, samples, batches on each rank, optimiser and learning rate: the losses are compared, too.
Ours runs twice: with padded rows, and packed. The Trainer runs twice: with the model's processor as its collator in a worker
process, as is usual, and with this project's collator. Contenders take turns, `--rounds` times; a figure is the median of
its rounds.
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

ROOT = Path(__file__).resolve().parents[1]
CONTENDERS = ("ours", "packed", "trainer", "trainer_our_collator")
WORLD, MICRO, STEPS, WARM = 2, 4, 24, 4
STUDIES = 160  # two images each, a tenth of the patients held out twice: enough for one epoch of STEPS
PACKED_TOKENS = 4096  # more than a rank's samples of a step: as many passes as with padded rows
DEEPSPEED = {
    "steps": STEPS, "micro_batch": MICRO, "global_batch": MICRO * WORLD, "learning_rate": 1e-3, "schedule": "constant",
    "precision": "fp32", "save_every": 10_000,
}  # fmt: skip
SETTINGS = {
    "trainable": ["language_model", "merger"], "deepspeed": DEEPSPEED, "validation": 0, "max_length": 1024,
    "tasks": {"report": 1.0},
}  # fmt: skip


def main(argv: list[str]) -> int:
    """Run the benchmark. Returns the exit code."""
    options = argparse.ArgumentParser(prog="bench.sft", description=__doc__)
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--steps", type=int, default=STEPS, help=f"at most {STEPS}, more than {WARM}")
    options.add_argument("--rank", nargs=2, help=argparse.SUPPRESS)
    args = options.parse_args(argv)
    if args.rank:
        return _rank(Path(args.rank[0]), args.rank[1], args.steps)
    began = time.monotonic()
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; Python {sys.version.split()[0]},"
        + "".join(f" {name} {version(name)}" for name in ("torch", "transformers", "accelerate", "deepspeed"))
        + f"; {WORLD} ranks, {args.steps} steps of {MICRO * WORLD} samples, the first {WARM} not counted",
        flush=True,
    )
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory(prefix="bench-sft-") as folder:
        _prepare(Path(folder))
        for number in range(args.rounds):
            for name in CONTENDERS:
                row = _run(Path(folder), name, args.steps)
                found[name].append(row)
                print(f"round {number + 1}: {name}: {row['samples_per_s']:.2f} samples/s", flush=True)
    figures, rates = (
        Figures("sft"),
        {n: statistics.median(row["samples_per_s"] for row in found[n]) for n in CONTENDERS},
    )
    for name in CONTENDERS[1:]:
        figures.add(f"samples_per_s_beside_{name}", rates["ours"], "1/s", rates[name], 1.0, least=True, of="ratio")
        first, last = (abs(found["ours"][0]["losses"][k] / found[name][0]["losses"][k] - 1) for k in (0, -1))
        figures.add(f"loss_difference_{name}", max(first, last), "", goal=0.02)
    waits = statistics.median(row["data_wait"] for row in found["ours"])
    figures.add("data_wait_share", waits, "", goal=0.01)
    print(f"{time.monotonic() - began:.0f} s in all; load at the end {os.getloadavg()[0]:.1f}")
    print(figures.line())
    return 0


def _prepare(root: Path) -> None:
    """Phantoms, one shard of them, and a tiny model whose tokenizer knows their reports."""
    from diagcot.data.phantom import build as phantoms
    from diagcot.jobs import Unit
    from diagcot.jobs.testing import context, run_unit
    from diagcot.shards import build as shards
    from diagcot.training.kinds import model

    tree = context(root, {"studies": STUDIES, "size": 256, "held_out": 0.1}, stage="phantoms")
    assert run_unit(phantoms, Unit("tree"), tree)
    source = {"kind": "mimic_cxr", "input": "phantoms"}
    made = context(
        root, {"sources": [source], "image_size": 256}, stage="shard", inputs={"phantoms": [str(tree.output)]}
    )
    assert run_unit(shards, Unit("00000"), made)
    tiny = {"max_pixels": 112 * 112, "tiny": {"vocabulary": 1200}}
    assert run_unit(model, Unit("model"), context(root, tiny, stage="model", inputs={"shards": [str(made.output)]}))


def _run(root: Path, name: str, steps: int) -> dict[str, Any]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": str(WORLD),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "bench.sft", "--steps", str(steps), "--rank", str(root), name]
    ranks = [
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
    said = [rank.communicate()[0] for rank in ranks]
    if any(rank.returncode for rank in ranks):
        raise SystemExit(f"{name} failed:\n" + "\n".join(said))
    row: dict[str, Any] = json.loads((root / f"{name}.json").read_text())
    return row


def _rank(root: Path, name: str, steps: int) -> int:
    """One rank of a contender; rank 0 writes its times and losses."""
    from diagcot.jobs.testing import context

    rank = int(os.environ["RANK"])
    inputs = {"model": [str(root / "shards/test/model")], "shards": [str(root / "shards/test/shard")]}
    packing = {"micro_batch_tokens": PACKED_TOKENS} if name == "packed" else {}
    settings = SETTINGS | {"deepspeed": DEEPSPEED | {"steps": steps} | packing}
    ctx = context(
        root, settings, inputs=inputs, stage=name, rank=rank, world_size=WORLD, local_rank=rank, local_world_size=WORLD,
        cpus=1, workspace=root / "work" / os.environ["MASTER_PORT"], attempt=os.environ["MASTER_PORT"],
    )  # fmt: skip
    row = _ours(ctx) if name in ("ours", "packed") else _trainer(ctx, name == "trainer_our_collator")
    if rank == 0:
        (root / f"{name}.json").write_text(json.dumps(row))
    return 0


def _summary(times: list[float], losses: list[float], waited: float = 0.0) -> dict[str, Any]:
    """times: the end of each step. Data, forward, backward and update are all in between."""
    seconds = times[-1] - times[WARM - 1]
    return {
        "samples_per_s": (len(times) - WARM) * MICRO * WORLD / seconds,
        "losses": losses,
        "data_wait": waited / seconds,
    }


def _ours(ctx: Any) -> dict[str, Any]:
    from diagcot.jobs import Unit
    from diagcot.training.kinds import sft

    times: list[float] = []
    tell = ctx.progress

    def progress(*figures: Any, **more: Any) -> None:
        tell(*figures, **more)
        times.append(time.perf_counter())

    ctx.progress = progress
    with sft.prepare(ctx) as settings:
        assert sft.run(Unit("model"), settings, ctx) is not None
    rows = (
        [json.loads(line) for line in (ctx.workspace / "train.jsonl").read_text().splitlines()] if ctx.rank == 0 else []
    )
    return _summary(times, [row["loss"] for row in rows], sum(row["data_wait"] * row["seconds"] for row in rows[WARM:]))


def _trainer(ctx: Any, our_collator: bool) -> dict[str, Any]:
    """Trainer over the samples in the order in which ours takes them, so that each rank sees the same batches."""
    import torch
    from torch.utils.data import SequentialSampler
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from diagcot.training.config.settings import SftSettings
    from diagcot.training.data import dataset
    from diagcot.training.data.collator import Collator
    from diagcot.training.data.order import BatchOrder
    from diagcot.training.distributed import engine, process_group
    from diagcot.training.losses import language
    from diagcot.training.models import freeze, model
    from diagcot.training.models.inputs import model_input

    settings = SftSettings.model_validate(ctx.settings)
    steps = settings.deepspeed.steps or STEPS
    process_group.connect(ctx)
    base = model_input(ctx)
    processor = model.load_processor(base)
    collator = Collator(processor, ctx.shards_root, settings.max_length)
    data = dataset.load(ctx, settings.tasks, 1.0, settings.validation)
    lengths = dataset.measure(ctx, data.train, collator)
    order = BatchOrder(lengths.tokens, MICRO * WORLD, MICRO, ctx.seed)
    assert order.steps_per_epoch >= steps, f"{len(data.train)} samples are fewer than {steps} steps take"
    samples = [data.train[index] for step in range(steps) for index in order.batch(step)]
    network = model.load(base, "fp32")
    freeze.freeze(network, settings)
    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    class InOrder(Trainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return SequentialSampler(samples)

    def ours(rows: list[Any]) -> dict[str, Any]:
        batch = collator(rows)
        return {name: batch[name] for name in (*language.MODEL_INPUTS, "labels") if name in batch}

    arguments = TrainingArguments(
        output_dir=str(ctx.workspace), use_cpu=True, max_steps=steps, per_device_train_batch_size=MICRO,
        learning_rate=settings.deepspeed.learning_rate, lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=1.0,
        optim="adamw_torch", logging_steps=1, save_strategy="no", report_to=[], remove_unused_columns=False,
        disable_tqdm=True, dataloader_num_workers=0 if our_collator else 1, dataloader_pin_memory=False, seed=ctx.seed,
        deepspeed=engine.config(settings.deepspeed, WORLD) | {"managed_gradient_accumulation": True},
        ddp_backend="gloo", bf16=False,
    )  # fmt: skip
    trainer = InOrder(
        model=network, args=arguments, train_dataset=samples, callbacks=[Clock()],
        data_collator=ours if our_collator else _Usual(processor, ctx.shards_root),
    )  # fmt: skip
    trainer.train()
    torch.distributed.barrier()
    return _summary(times, [row["loss"] for row in trainer.state.log_history if "loss" in row])


class _Usual:
    """The collator that tutorials show: the processor on texts and pictures, labels behind the assistant's mark."""

    def __init__(self, processor: Any, shards_root: Path) -> None:
        self.processor, self.shards_root = processor, shards_root
        self.mark = processor.tokenizer("<|im_start|>assistant\n", add_special_tokens=False)["input_ids"]
        self.source: Any = None

    def __call__(self, samples: list[Any]) -> Any:
        from diagcot.training.data.collator import message_parts
        from diagcot.training.data.images import ShardImages

        self.source = self.source or ShardImages(self.shards_root)  # a file is opened in the process that reads it
        texts = [
            self.processor.apply_chat_template(
                [{"role": role, "content": message_parts(text)} for role, text in sample.messages], tokenize=False
            ).rstrip("\n")
            for sample in samples
        ]
        pictures = [self.source.pixels(ref) for sample in samples for ref in sample.images]
        batch = self.processor(text=texts, images=pictures, padding=True, padding_side="right", return_tensors="pt")
        labels = batch["input_ids"].clone()
        for row, ids in enumerate(batch["input_ids"].tolist()):
            start = next(i for i in range(len(ids)) if ids[i : i + len(self.mark)] == self.mark) + len(self.mark)
            labels[row, :start] = -100
        labels[batch["attention_mask"] == 0] = -100
        batch["labels"] = labels
        return batch


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
