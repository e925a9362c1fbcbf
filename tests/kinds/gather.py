"""A kind for tests of stages that make their product again: one file of all that its source stages have made."""

from collections.abc import Iterator
from contextlib import contextmanager

from diagcot.jobs import Context, Result, Unit


@contextmanager
def prepare(ctx: Context) -> Iterator[None]:
    """Nothing is shared."""
    yield None


def run(unit: Unit, shared: None, ctx: Context) -> Result | None:
    """Join all files of the role `cells`."""
    final = ctx.output / "table.txt"
    staged = ctx.staged(final)
    rows = [path.read_text() for path in ctx.files("cells", "*.txt")]
    staged.write_text(f"{unit.key}\n" + "".join(rows))
    return Result({final: staged}, {"cells": len(rows)})
