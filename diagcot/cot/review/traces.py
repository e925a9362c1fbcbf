"""Kind `traces`: statistics of a collect and a filter stage, and a page of their traces for review.

Writes `<stage>.json`, which contains only numbers, and `<stage>.html` into the run's folder. Only their owner can read
them, because the page shows images and report texts.
"""

import heapq
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diagcot.cot.records import DOUBLE, TraceRecord, VerdictRecord
from diagcot.cot.review import page
from diagcot.cot.review.statistics import Statistics
from diagcot.cot.review.truth import known
from diagcot.cot.settings import TracesSettings
from diagcot.data import seeded
from diagcot.jobs import Context, Result, Unit, UserError
from diagcot.jobs.state import reading
from diagcot.tasks import identity
from diagcot.tasks.identity import Ids, by_id

Pair = tuple[TraceRecord, VerdictRecord]  # a trace and the verdict on it
Judged = tuple[TraceRecord, VerdictRecord, frozenset[str]]  # and in what the trace is untrue


@contextmanager
def prepare(ctx: Context) -> Iterator[TracesSettings]:
    """Parse the settings."""
    yield TracesSettings.model_validate(ctx.settings)


def run(unit: Unit, shared: TracesSettings, ctx: Context) -> Result | None:
    """Read every trace once; the traces on the page are selected by hash, the same for the same seed."""
    statistics = Statistics()
    selected = {True: _Lowest(shared.kept), False: _Lowest(shared.dropped)}
    for trace, verdict in pairs(Path(ctx.inputs["traces"][0]), Path(ctx.inputs["verdicts"][0])):
        untrue = statistics.add(trace, verdict, known(trace, ctx.shards_root))
        selected[verdict["kept"]].add(_order(ctx.seed, trace["id"]), (trace, verdict, untrue))
        if ctx.stopping():
            return None
    figures = {"run": ctx.run, "stage": ctx.stage, "time": time.time(), **statistics.figures()}
    examples = [
        page.Example.of(*pair, shards_root=ctx.shards_root)
        for group in (selected[True], selected[False])
        for pair in group.in_order()
    ]
    outputs = {
        f"{ctx.stage}.json": json.dumps(figures, indent=1, ensure_ascii=False) + "\n",
        f"{ctx.stage}.html": page.html(figures, examples, statistics.lengths),
    }
    staged = {ctx.output / name: _private(ctx.staged(ctx.output / name), text) for name, text in outputs.items()}
    if shortfall := statistics.truth.shortfall(shared.least_true):
        for final, path in staged.items():  # the page shows what is untrue
            path.replace(final)
        raise UserError(
            f"stage {ctx.stage}: {shortfall}; `least_true` asks for {shared.least_true:.0%}. Read the kept traces that"
            f" {ctx.output / ctx.stage}.html marks as untrue, then keep the filter's rules on (`rules`, `compare`), or use a"
            " stronger teacher, or lower `least_true`"
        )
    return Result(staged, {"traces": figures["traces"], "kept": figures["kept"], "shown": len(examples)})


def pairs(traces: Path, verdicts: Path) -> Iterator[Pair]:
    """Every verdict with its trace, unit by unit.

    Raises UserError for a verdict whose trace is missing, and, with both files, for an id of two traces or two verdicts.
    """
    all_traces, judged = Ids("the trace", DOUBLE), Ids("a verdict on the trace", DOUBLE)
    for path in reading.listing(verdicts / "verdicts", "*.jsonl"):
        source = traces / path.name
        known = by_id(source, "the trace", DOUBLE)
        for name in known:
            all_traces.add(name, source)
        for verdict in identity.rows(path, "id"):
            judged.add(verdict["id"], path)
            if verdict["id"] not in known:
                raise UserError(
                    f"{path} has a verdict on {verdict['id']}, which is not in {traces / path.name}:"
                    " run the filter stage again"
                )
            yield known[verdict["id"]], verdict


class _Lowest:
    """The `count` pairs with the lowest order, in memory that does not grow with the number of traces."""

    def __init__(self, count: int) -> None:
        self._count, self._heap = count, list[tuple[int, str, Judged]]()

    def add(self, order: int, pair: Judged) -> None:
        if self._count:
            push = heapq.heappush if len(self._heap) < self._count else heapq.heappushpop
            push(self._heap, (-order, pair[0]["id"], pair))

    def in_order(self) -> list[Judged]:
        return [pair for *_, pair in sorted(self._heap, key=lambda entry: -entry[0])]


def _order(seed: int, trace_id: str) -> int:
    return seeded.rank(seed, trace_id, separator=":")


def _private(path: Path, text: str) -> Path:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
        out.write(text)
    return path
