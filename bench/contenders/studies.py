"""The kind of the scale run: a scaled-down sleep a study, and a line for each execution of it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path

from diagcot.jobs import Context, Result, Unit


@contextmanager
def prepare(ctx: Context) -> Iterator[TextIOWrapper]:
    """A file of this execution: it shows what was run, and how often, without the ledger; every `failing`-th task fails once."""
    failing, first = ctx.settings["failing"], not list(Path(ctx.settings["ran"]).glob(f"{ctx.stage}.{ctx.task}.*"))
    if failing and first and int(ctx.task) % failing == 0:
        (Path(ctx.settings["ran"]) / f"{ctx.stage}.{ctx.task}.{ctx.attempt}").touch()
        raise RuntimeError("asked to fail once")
    with (Path(ctx.settings["ran"]) / f"{ctx.stage}.{ctx.task}.{ctx.attempt}").open("w", buffering=1) as ran:
        yield ran


def run(unit: Unit, ran: TextIOWrapper, ctx: Context) -> Result | None:
    """One unit: write a file for each of its studies."""
    if ctx.stopping():
        return None
    time.sleep(ctx.settings["seconds"])
    ran.write(f"{unit.key}\n")
    return Result(counts={"studies": 1})
