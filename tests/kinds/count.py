"""A kind for tests of the toolkit: writes a file of numbers. Its settings make it slow, fail, park, hang or die."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diagcot.jobs import Context, Result, Unit, UserError


@contextmanager
def prepare(ctx: Context) -> Iterator[int]:
    """The number of records of each unit."""
    time.sleep(ctx.settings.get("startup", 0))
    yield ctx.settings.get("records", 3)


def run(unit: Unit, shared: int, ctx: Context) -> Result | None:
    """Write the squares of the first numbers, each a record."""
    if ctx.settings.get("fail") == unit.key or ctx.settings.get("fail") == "all":
        raise RuntimeError(f"asked to fail at {unit.key}")
    if ctx.settings.get("fail_rank") == ctx.rank:
        error = UserError if ctx.settings.get("for_user") else RuntimeError
        raise error(f"asked to fail on rank {ctx.rank}")
    if ctx.settings.get("fail_rank") is not None:
        time.sleep(60)  # as a rank does that waits for another
    if ctx.settings.get("fail_once") == unit.key and not (ctx.workspace / "failed-once").exists():
        (ctx.workspace / "failed-once").touch()
        raise RuntimeError(f"asked to fail once at {unit.key}")
    if ctx.settings.get("fail_until") and not Path(ctx.settings["fail_until"]).exists():
        raise RuntimeError(f"asked to fail until {ctx.settings['fail_until']} is there")
    time.sleep(ctx.settings.get("late_startup", 0))
    ctx.startup_s += ctx.settings.get("late_startup", 0)
    while "await" in ctx.settings and not Path(ctx.settings["await"]).exists() and not ctx.stopping():
        time.sleep(0.1)
    held = mishap(unit, ctx)
    if ctx.rank:
        return Result()
    records = ctx.records(unit)
    for number in range(shared):
        if ctx.stopping():
            records.close()
            return None
        name = f"{unit.key}-{number:04d}"
        if name not in records:
            time.sleep(ctx.settings.get("seconds", 0))
            records.append({"id": name, "square": number * number})
        ctx.progress(number + 1, shared)
    del held
    final = ctx.output / f"{unit.key}.txt"
    staged = ctx.staged(final)
    staged.write_text("".join(f"{row['id']} {row['square']}\n" for row in records.rows()))
    records.close()
    return Result({final: staged}, {"records": shared})


def mishap(unit: Unit, ctx: Context) -> object:
    """Do what setting `mishaps` says for this execution of the unit: key -> one verb for each; `...` repeats the last.

    `exit 3`: exit without a message; `hang`: no sign of life; `fill 80`: use so many megabytes for six seconds; `deaf`:
    ignore all signals.
    """
    verbs = list(ctx.settings.get("mishaps", {}).get(unit.key, []))
    seen = len(list(ctx.workspace.glob(f"{unit.key}.began.*")))
    (ctx.workspace / f"{unit.key}.began.{ctx.attempt}").touch()
    repeat = verbs[-1:] == ["..."]
    verbs = verbs[:-1] if repeat else verbs
    verb, _, value = (verbs[min(seen, len(verbs) - 1)] if repeat or seen < len(verbs) else "").partition(" ")
    held: object = None
    match verb:
        case "exit":
            sys.stdout.flush()
            os._exit(int(value))
        case "hang":
            while True:
                time.sleep(1)
        case "fill":
            held = b"x" * (int(value) << 20)
            time.sleep(6)
        case "deaf":
            for number in (signal.SIGUSR2, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
    return held
