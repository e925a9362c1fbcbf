"""The same work as a kind of this project."""

from pathlib import Path

from work import nap

from diagcot.jobs import Context, Result, Unit


def run(unit: Unit, ctx: Context) -> Result:
    """One unit: sleep, and leave a file that says when."""
    nap(Path(ctx.settings["out"]), int(ctx.stage), int(unit.key), unit.params["seconds"])
    return Result()
