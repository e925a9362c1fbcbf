"""Kind `model`: the base model of a chain."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from diagcot.jobs import Context, Result, Unit
from diagcot.training.config.settings import ModelSettings


@contextmanager
def prepare(ctx: Context) -> Iterator[ModelSettings]:
    yield ModelSettings.model_validate(ctx.settings)


def run(unit: Unit, settings: ModelSettings, ctx: Context) -> Result | None:
    """Take over a model on disk, or make a tiny one whose tokenizer knows the words of the inputs."""
    if ctx.rank:
        return Result()
    from diagcot.training.data import dataset
    from diagcot.training.models import model

    final = ctx.output / "model"
    staged = ctx.staged(final)
    shutil.rmtree(staged, ignore_errors=True)
    if settings.pretrained is not None:
        counts = model.adopt(settings, staged)
    else:
        counts = model.build(settings, dataset.texts(ctx), staged, ctx.seed)
    (staged / "diagcot.json").write_text(json.dumps({"stage": ctx.stage, "run": ctx.run, **counts}, indent=1))
    ctx.progress(1, 1)
    return Result(outputs={final: staged}, counts=counts)
