"""Kind `sft` over drawn images instead of shards; one rank dies once, by SIGKILL, at a step."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diagcot.jobs import Context, Result, Unit
from diagcot.training.data import collator
from diagcot.training.kinds import sft
from tests.training import images as films


@contextmanager
def prepare(ctx: Context) -> Iterator[Any]:
    """Train on drawn images."""
    collator.ShardImages = films.DrawnImages  # type: ignore[misc,assignment]
    with sft.prepare(ctx) as settings:
        yield settings


def run(unit: Unit, settings: Any, ctx: Context) -> Result | None:
    """Train; rank 0 kills itself once, when it reports step 5 or a later one."""
    died = ctx.workspace / "died"
    if ctx.rank == 0 and not died.exists():

        def die(row: dict[str, Any]) -> None:
            if row["done"] >= 5:
                died.touch()
                os.kill(os.getpid(), signal.SIGKILL)

        ctx.on_progress = die
    return sft.run(unit, settings, ctx)
