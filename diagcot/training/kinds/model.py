"""Kind `model`: the base model of a chain, a downloaded one or a tiny one."""

from collections.abc import Iterator
from contextlib import contextmanager

from diagcot.jobs import Context, Result, Unit
from diagcot.jobs.state.files import remove
from diagcot.training.config.settings import ModelSettings


@contextmanager
def prepare(ctx: Context) -> Iterator[ModelSettings]:
    """The stage's settings."""
    yield ModelSettings.model_validate(ctx.settings)


def run(unit: Unit, settings: ModelSettings, ctx: Context) -> Result | None:
    """Take a model over from disk, or build a tiny one whose tokenizer knows the texts of the inputs."""
    if ctx.rank:
        return Result()
    from diagcot.training.data import dataset
    from diagcot.training.models import card, model, tiny
    from diagcot.training.models.inputs import write_counts

    final = ctx.output / "model"
    staged = ctx.staged(final)
    remove(staged, ctx.output)
    if settings.pretrained is not None:
        counts = model.adopt(settings, staged)
    else:
        counts = tiny.build(settings, dataset.corpus(ctx), staged, ctx.seed)
    write_counts(ctx, staged, counts)
    if not (staged / card.CARD).exists():  # a downloaded model has its own
        card.write(ctx, staged, counts)
    ctx.progress(1, 1)
    return Result(outputs={final: staged}, counts=counts)
