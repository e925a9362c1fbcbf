"""One rank of a contender: its times and losses, which rank 0 writes."""

import json
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.sft.parts import MIXED, WARM, WORLD, Part, inputs


def run(root: Path, part: Part, name: str) -> None:
    """Train as the contender `name` of a part; rank 0 writes the row."""
    from diagcot.jobs.testing import context
    from diagcot.training.data.order import BatchOrder

    if part is MIXED and name != "packed_windows":
        BatchOrder.WINDOW = 1  # a step's samples are drawn at random, as the Trainer draws them, and the same for all
    rank = int(os.environ["RANK"])
    settings = part.settings | {"deepspeed": part.deepspeed(name.startswith("packed"))}
    ctx = context(
        root, settings, inputs=inputs(root, part), stage=name, rank=rank, world_size=WORLD, local_rank=rank,
        local_world_size=WORLD, cpus=1, workspace=root / "work" / os.environ["MASTER_PORT"],
        attempt=os.environ["MASTER_PORT"],
    )  # fmt: skip
    row = _trainer(ctx, part, name == "trainer_our_collator") if name.startswith("trainer") else _ours(ctx, part)
    if rank == 0:
        (root / f"{name}.json").write_text(json.dumps(row))


def _summary(part: Part, times: list[float], losses: list[float], waited: float = 0.0) -> dict[str, Any]:
    """times: the end of each step. Data, forward, backward and update are all in between."""
    seconds = times[-1] - times[WARM - 1]
    return {
        "samples_per_s": (len(times) - WARM) * part.global_batch / seconds,
        "losses": losses,
        "data_wait": waited / seconds,
    }


def _ours(ctx: Any, part: Part) -> dict[str, Any]:
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
    waited = sum(row["data_wait"] * row["seconds"] for row in rows[WARM:])
    return _summary(part, times, [row["loss"] for row in rows], waited)


def _trainer(ctx: Any, part: Part, our_collator: bool) -> dict[str, Any]:
    """Trainer over the samples in the steps in which ours takes them.

    Where all samples are alike it gets our order inside a step, too, so that each rank sees the same batches; of mixed ones
    the order in which its own sampler would draw them.
    """
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
    steps, accumulated = part.steps, part.global_batch // part.micro_batch // WORLD
    process_group.connect(ctx)
    base = model_input(ctx)
    processor = model.load_processor(base)
    collator = Collator(processor, ctx.shards_root, settings.max_length)
    data = dataset.load(ctx, settings.tasks, 1.0, settings.validation)
    lengths = dataset.measure(ctx, data.train, collator)
    order = BatchOrder(lengths.tokens, part.global_batch, part.micro_batch, ctx.seed)
    assert order.steps_per_epoch >= steps, f"{len(data.train)} samples are fewer than {steps} steps take"
    samples = [data.train[index] for step in range(steps) for index in _drawn(order.batch(step), part, step)]
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
        output_dir=str(ctx.workspace), use_cpu=True, max_steps=steps, per_device_train_batch_size=part.micro_batch,
        gradient_accumulation_steps=accumulated,
        learning_rate=settings.deepspeed.learning_rate, lr_scheduler_type="constant", weight_decay=0.0,
        max_grad_norm=1.0,
        optim="adamw_torch", logging_steps=1, save_strategy="no", report_to=[], remove_unused_columns=False,
        disable_tqdm=True, dataloader_num_workers=0 if our_collator else 1, dataloader_pin_memory=False, seed=ctx.seed,
        deepspeed=engine.config(settings.deepspeed, WORLD) | {
            "managed_gradient_accumulation": True,
            "train_micro_batch_size_per_gpu": part.micro_batch,
            "gradient_accumulation_steps": accumulated,
        },
        ddp_backend="gloo", bf16=False,
    )  # fmt: skip
    trainer = InOrder(
        model=network, args=arguments, train_dataset=samples, callbacks=[Clock()],
        data_collator=ours if our_collator else _Usual(processor, ctx.shards_root),
        compute_loss_func=_mean_over_tokens,
    )  # fmt: skip
    trainer.train()
    torch.distributed.barrier()
    return _summary(part, times, [row["loss"] for row in trainer.state.log_history if "loss" in row])


def _mean_over_tokens(outputs: Any, labels: Any, num_items_in_batch: Any) -> Any:
    """transformers' own loss, in which each token of a step weighs the same.

    Qwen's models leave that to their caller: the Trainer would take the mean of the passes' means, whatever their tokens.
    """
    from transformers.loss.loss_utils import ForCausalLMLoss

    logits = outputs["logits"]
    return ForCausalLMLoss(logits, labels, logits.shape[-1], num_items_in_batch=num_items_in_batch)


def _drawn(indices: Sequence[int], part: Part, step: int) -> Sequence[int]:
    """A step's samples, which ours has sorted by length, in the order for the Trainer."""
    return random.Random(step).sample(indices, len(indices)) if part is MIXED else indices


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
