"""Kind `sft`: supervised fine-tuning of declared components, or of a LoRA adapter, on conversations with images.

Pre-training of a tiny model, DiagCoT's teacher (a LoRA adapter) and its chain-of-thought model (language model without
its head, and merger; arXiv:2509.06409) are this kind with different settings.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diagcot.jobs import Context, Result, Unit
from diagcot.training.checkpoint import export, origin
from diagcot.training.config.settings import SftSettings
from diagcot.training.data import dataset
from diagcot.training.data.collator import Collator
from diagcot.training.distributed import engine, process_group
from diagcot.training.models import freeze, frozen_tower, lora, model
from diagcot.training.models.inputs import model_input
from diagcot.training.supervised import loop
from diagcot.training.supervised.objective import LanguageObjective, order_of
from diagcot.training.supervised.sequence_parallel import SharedRows


@contextmanager
def prepare(ctx: Context) -> Iterator[SftSettings]:
    """The stage's settings, checked before anything heavy, and the group of ranks."""
    settings = SftSettings.model_validate(ctx.settings)
    settings.deepspeed.check_batches(ctx.world_size)
    with process_group.connected(ctx):
        yield settings


def run(unit: Unit, settings: SftSettings, ctx: Context) -> Result | None:
    """Train and write a model directory (or an adapter's); None when stopped before the end."""
    base = model_input(ctx)
    processor = model.load_processor(base)
    packed = settings.deepspeed.micro_batch_tokens is not None
    collator = Collator(processor, ctx.shards_root, settings.max_length, settings.image_cache_mb, packed=packed)
    data = dataset.load(
        ctx, settings.tasks, settings.samples_weight, settings.validation, settings.views, settings.reasoning
    )
    collator.show_blank = len({bool(sample.images) for sample in [*data.train, *data.validation]}) == 2
    lengths = dataset.measure(ctx, data.train, collator)
    network, counts = load_model(base, settings, ctx)
    steps = loop.total_steps(settings.deepspeed, order_of(lengths, settings.deepspeed, ctx))
    sizes = {"samples": len(data.train), "cut": lengths.truncated}
    made_of = origin.of(ctx, settings, [*data.train, *data.validation], base)
    ctx.event("training", held_out=len(data.validation), steps=steps, **sizes, **counts)
    trained = engine.initialize(network, settings.deepspeed, ctx, steps)
    tower = frozen_tower.of(network, settings, ctx)
    ranks = settings.deepspeed.sequence_parallel
    shared = SharedRows(network, ranks, ctx) if ranks > 1 else None
    objective = LanguageObjective(ctx, settings.deepspeed, data, lengths, collator, tower, shared)
    final = loop.train(ctx, trained, settings.deepspeed, objective, made_of, settings.validate_every)
    return (
        None
        if final is None
        else export.write(ctx, trained, processor, {**counts, **final, **sizes, "needed": data.needed})
    )


def load_model(base: Path, settings: SftSettings, ctx: Context) -> tuple[Any, dict[str, Any]]:
    """The model with its freeze policy, and its parameter counts."""
    packed = settings.lora is not None and settings.lora.load_in_4bit
    network = model.load(base, settings.deepspeed.precision, engine.zero3_config(settings.deepspeed, ctx), packed)
    if settings.lora is not None:
        network = lora.add_adapter(network, settings.lora)
    freeze.freeze(network, settings)
    return network, freeze.describe(network)
