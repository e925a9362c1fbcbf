"""The same work as a kind of this project."""

from pathlib import Path

from work import nap

from diagcot.jobs import Context, Result, Unit


def run(unit: Unit, ctx: Context) -> Result:
    nap(Path(ctx.settings["out"]), int(ctx.stage), int(unit.key), unit.params["seconds"])
    return Result()
