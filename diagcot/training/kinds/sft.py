"""Kind `sft`: supervised fine-tuning of declared components, or of a LoRA adapter, on conversations with films.

Pre-training of a tiny model, the teacher (LoRA, method.md 3.2) and the chain-of-thought model (language model without
its head, and merger; method.md 4.3) are this kind with different settings.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from diagcot.jobs import Context, Result, Unit
from diagcot.training.checkpoint import export
from diagcot.training.config.settings import LoraSettings, SftSettings
from diagcot.training.data import dataset
from diagcot.training.data.batch import Collator, Order
from diagcot.training.distributed import engine, process_group
from diagcot.training.losses import language
from diagcot.training.models import freeze, model
from diagcot.training.models.inputs import model_input
from diagcot.training.supervised import loop


@contextmanager
def prepare(ctx: Context) -> Iterator[SftSettings]:
    """Settings, checked before anything heavy, and the group of ranks."""
    settings = SftSettings.model_validate(ctx.settings)
    settings.deepspeed.accumulation(ctx.world_size)
    process_group.connect(ctx)
    try:
        yield settings
    finally:
        process_group.disconnect()


def run(unit: Unit, settings: SftSettings, ctx: Context) -> Result | None:
    """Train and write a model directory (or an adapter's); None when stopped before the end."""
    base = model_input(ctx)
    processor = model.processor_of(base)
    collator = Collator(processor, ctx.shards_root, settings.max_length, settings.image_cache_mb)
    data = dataset.gather(ctx, settings.tasks, settings.samples_weight, settings.validation, settings.views)
    collator.show_blank = len({bool(sample.images) for sample in [*data.train, *data.validation]}) == 2
    lengths, targets, cut = dataset.measure(ctx, data.train, collator)
    network, counts = load_model(base, settings, ctx)
    order = Order(lengths, settings.deepspeed.global_batch, settings.deepspeed.micro_batch, ctx.seed)
    steps = loop.steps_of(settings.deepspeed, order)
    ctx.event("training", samples=len(data.train), held_out=len(data.validation), cut=cut, steps=steps, **counts)
    trained = engine.initialize(network, settings.deepspeed, ctx, steps)
    passes = ctx.world_size * settings.deepspeed.accumulation(ctx.world_size)

    def make(step: int) -> list[loop.Batch]:
        learned = sum(targets[index] for index in order.batch(step))
        made = []
        for indices in order.micro(step, ctx.rank, ctx.world_size):
            batch = collator([data.train[index] for index in indices])
            made.append({**batch, "share": torch.tensor(passes / learned)})
        return made

    def objective(trained: Any, batch: loop.Batch) -> Any:
        # Every token of the global batch weighs the same, however the batch is spread over passes and ranks.
        return language.summed_loss(trained(**language.inputs_of(batch)).logits, batch["labels"]) * batch["share"]

    def validate(trained: Any) -> dict[str, float]:
        return language.held_out(trained, data.validation, collator, ctx, settings.deepspeed.micro_batch)

    final = loop.train(
        ctx, trained, settings.deepspeed, loop.Task(order, make, objective, validate), settings.validate_every
    )
    if final is None:
        return None
    return export.write(ctx, trained, processor, {**counts, **final, "samples": len(data.train), "cut": cut})


def load_model(base: Path, settings: SftSettings, ctx: Context) -> tuple[Any, dict[str, Any]]:
    """The model with its freeze policy, and its counts."""
    network = model.load(base, settings.deepspeed.precision, engine.zero3_config(settings.deepspeed, ctx))
    if settings.lora is not None:
        network = adapted(network, settings.lora)
    freeze.freeze(network, settings)
    return network, freeze.describe(network)


def adapted(network: Any, settings: LoraSettings) -> Any:
    """The model with a LoRA adapter on the language model's projections; vision tower and merger have none."""
    from peft import LoraConfig, get_peft_model

    names = "|".join(settings.targets)
    made = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=rf".*language_model\..*\.({names})",
    )
    return get_peft_model(network, made)
