"""Kind `align`: trains the projector on pairs of images and report (DiagCoT's first stage, arXiv:2509.06409)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diagcot.jobs import Context, Result, Unit
from diagcot.training.checkpoint import export, origin
from diagcot.training.config.settings import AlignSettings
from diagcot.training.data import dataset
from diagcot.training.data.collator import Collator
from diagcot.training.distributed import engine, process_group
from diagcot.training.losses.contrastive import Aligner
from diagcot.training.models import freeze, frozen_tower, model
from diagcot.training.models.inputs import model_input
from diagcot.training.supervised import loop
from diagcot.training.supervised.alignment import AlignmentObjective
from diagcot.training.supervised.objective import order_of


@contextmanager
def prepare(ctx: Context) -> Iterator[AlignSettings]:
    """The stage's settings, checked before anything heavy, and the group of ranks."""
    settings = AlignSettings.model_validate(ctx.settings)
    settings.deepspeed.check_batches(ctx.world_size)
    with process_group.connected(ctx):
        yield settings


def run(unit: Unit, settings: AlignSettings, ctx: Context) -> Result | None:
    """Train on pairs of images and report; writes a model directory, None when stopped before the end."""
    base, deepspeed = model_input(ctx), settings.deepspeed
    processor = model.load_processor(base)
    packed = deepspeed.micro_batch_tokens is not None
    collator = Collator(processor, ctx.shards_root, settings.max_length, settings.image_cache_mb, packed=packed)
    data = dataset.load(ctx, {"report": 1.0}, 1.0, settings.validation)
    if without := next((sample.id for sample in [*data.train, *data.validation] if not sample.images), None):
        raise ValueError(f"sample {without} has no image: align learns from pairs of images and report")
    lengths = dataset.measure(ctx, data.train, collator)
    aligner, counts = load_aligner(base, settings, ctx)
    steps = loop.total_steps(deepspeed, order_of(lengths, deepspeed, ctx))
    sizes = {"samples": len(data.train), "cut": lengths.truncated}
    made_of = origin.of(ctx, settings, [*data.train, *data.validation], base)
    ctx.event("training", held_out=len(data.validation), steps=steps, **sizes, **counts)
    trained = engine.initialize(aligner, deepspeed, ctx, steps)
    tower = frozen_tower.of(aligner, settings, ctx)
    objective = AlignmentObjective(ctx, settings, trained, data, lengths, collator, tower)
    final = loop.train(ctx, trained, deepspeed, objective, made_of, settings.validate_every)
    return (
        None
        if final is None
        else export.write(ctx, trained, processor, {**counts, **final, **sizes, "needed": data.needed})
    )


def load_aligner(base: Path, settings: AlignSettings, ctx: Context) -> tuple[Aligner, dict[str, Any]]:
    """The model with its freeze policy and a temperature, and its parameter counts."""
    vlm = model.load(base, settings.deepspeed.precision, engine.zero3_config(settings.deepspeed, ctx))
    freeze.freeze(vlm, settings)
    aligner = Aligner(vlm, settings.temperature)
    if settings.loss == "lm":
        aligner.log_scale.requires_grad_(False)
    return aligner, freeze.describe(vlm)
