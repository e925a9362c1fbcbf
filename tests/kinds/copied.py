"""A kind for tests of what reads a stage: each unit's product is a copy of an existing file, `from` of its parameters."""

import shutil
from pathlib import Path

from diagcot.jobs import Context, Result, Unit


def run(unit: Unit, ctx: Context) -> Result | None:
    """Copy the unit's file."""
    final = ctx.output / Path(unit.params["from"]).name
    staged = ctx.staged(final)
    shutil.copyfile(unit.params["from"], staged)
    return Result({final: staged}, {"bytes": staged.stat().st_size})
