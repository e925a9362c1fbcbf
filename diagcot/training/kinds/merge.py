"""Kind `merge`: a LoRA adapter and its base model become one model that a server loads.

DiagCoT's teacher is such a model (TMLSIAT/DiagCoT-main merges it by `llamafactory-cli export`).
"""

from collections.abc import Iterator
from contextlib import contextmanager

from diagcot.jobs import Context, Result, Unit
from diagcot.jobs.state.files import remove
from diagcot.training.config.settings import MergeSettings


@contextmanager
def prepare(ctx: Context) -> Iterator[MergeSettings]:
    """The stage's settings."""
    yield MergeSettings.model_validate(ctx.settings)


def run(unit: Unit, settings: MergeSettings, ctx: Context) -> Result | None:
    """Merge on the CPU in the base's type. Inputs: role `model` is the base, role `adapter` the LoRA stage."""
    if ctx.rank:
        return Result()
    from diagcot.training.models import card, merging
    from diagcot.training.models.inputs import model_input, write_counts

    base, adapter = model_input(ctx), model_input(ctx, "adapter")
    if not (adapter / "adapter_config.json").is_file():
        raise ValueError(f"{adapter} holds no adapter; role `adapter` must name a stage that trains [lora]")
    final = ctx.output / "model"
    staged = ctx.staged(final)
    remove(staged, ctx.output)
    counts = {"parameters": merging.merge(base, adapter, staged, settings.shard_bytes)}
    write_counts(ctx, staged, counts)
    card.write(ctx, staged, counts)
    ctx.progress(1, 1)
    return Result(outputs={final: staged}, counts=counts)
