"""A kind for tests of whole chains: copies the product of its source stage, each line a record."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from diagcot.jobs import Context, Result, Unit


@contextmanager
def prepare(ctx: Context) -> Iterator[None]:
    """Nothing is shared."""
    yield None


def run(unit: Unit, shared: None, ctx: Context) -> Result | None:
    """Copy the unit's files of the role `source`, each line a record."""
    sources = ctx.files("source", f"{unit.key}*.txt")
    lines = [line for path in sources for line in path.read_text().splitlines()]
    records = ctx.records(unit)
    for line in lines:
        if ctx.stopping():
            records.close()
            return None
        name = line.split()[0]
        if name not in records:
            time.sleep(ctx.settings.get("seconds", 0))
            records.append({"id": name, "line": f"{line} {ctx.stage}"})
    final = ctx.output / f"{unit.key}.txt"
    staged = ctx.staged(final)
    staged.write_text("".join(f"{row['line']}\n" for row in records.rows()))
    records.close()
    return Result({final: staged}, {"records": len(lines)})
