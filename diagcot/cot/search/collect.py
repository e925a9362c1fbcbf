"""Kind `collect`: chains of thought for the training images of one shard, many samples in flight on one server."""

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from diagcot.cot.search.collection import Collection, Servers, UnitTraces, counts_of
from diagcot.cot.settings import CollectSettings
from diagcot.jobs import Context, Result, Unit
from diagcot.jobs.state import reading
from diagcot.serving import serve

_COUNTED = (
    "samples",
    "verified",
    "forced",
    "failed",
    "contradictory_verdicts",
    "calls",
    "prompt_tokens",
    "completion_tokens",
)


@contextlib.contextmanager
def prepare(ctx: Context) -> Iterator[Collection]:
    """Start the servers of teacher and verifier; two different models share the GPUs of the task."""
    settings = CollectSettings.model_validate(ctx.settings)
    models = [Path(ctx.inputs[role][0]) / "model" for role in ("model", "verifier") if ctx.inputs.get(role)]
    wanted = (settings.server, settings.verifier or settings.server)
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(serve(model, server, ctx, share=(number, len(models))))
            for number, (model, server) in enumerate(zip(models, wanted, strict=False))
        ]
        collection = Collection(Servers(servers[0], servers[-1]), ctx)
        stack.callback(collection.close)
        yield collection
        collection.finish()


def run(unit: Unit, shared: Collection, ctx: Context) -> Result | None:
    """Write the traces of shard `unit.key`, one JSON object a line (docs/cot.md); a failed sample is a trace with `error`.

    Raises ServerError if a server cannot be kept alive (finished traces are kept), UserError for questions that are
    not about the training studies of this shard.
    """
    traces = shared.open(unit)
    served: dict[str, float] = {}
    if not traces.complete and not ctx.stopping():
        served = shared.search(unit)
    if not traces.complete:
        return None  # its records stay open for what may still be in flight
    result = _result(unit, traces, served, ctx)
    shared.release(unit)
    return result


def _result(unit: Unit, traces: UnitTraces, served: dict[str, float], ctx: Context) -> Result:
    final = ctx.output / f"{unit.key}.jsonl"
    staged = ctx.staged(final)
    counts = Counter(dict.fromkeys(_COUNTED, 0))
    with reading.written(staged) as out:
        for row in traces.records.rows():
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
            counts.update(counts_of(row))
    needed = {"needed": {"traces": counts["samples"]}}
    return Result({final: staged}, dict(counts) | served | needed)
