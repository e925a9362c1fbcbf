"""Our way: the kind `collect` itself, as a task of a chain runs it, with replies that every way gets alike."""

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.cot.canned import Canned
from diagcot.cot.search import collect
from diagcot.cot.search.collection import Collection, Servers
from diagcot.jobs import Context, Unit
from diagcot.jobs.state.ledger import publish
from diagcot.jobs.testing import context
from diagcot.serving import Server, serve


class Run(NamedTuple):
    """What a run took."""

    seconds: float
    samples: int
    calls: int


@contextlib.contextmanager
def opened(ctx: Context, command: list[str] | None = None) -> Iterator[tuple[Servers, Server]]:
    """What `collect` opens for a task, and the server in it, started by `command` if that is given."""
    servers: list[Server] = []

    @contextlib.contextmanager
    def served(*args: Any, **named: Any) -> Iterator[Server]:
        with serve(*args, **named, command=command) as server:
            servers.append(server)
            yield server

    collect.serve = served  # type: ignore[attr-defined]
    try:
        with collect.prepare(ctx) as shared:
            yield shared.servers, servers[0]
    finally:
        collect.serve = serve  # type: ignore[attr-defined]


def settings(root: Path, name: str, server: dict[str, Any], tokens: int = 48, verdict_tokens: int = 16) -> Context:
    """A stage of its own over the shards under `root`."""
    search = {"max_tokens": tokens, "verdict_tokens": verdict_tokens}
    shards = root / "shards" / "bench"
    inputs = {"shards": [str(shards)], "model": [str(root)]}
    return context(root, {"server": server, "search": search}, stage=name, inputs=inputs)


def run(keys: Sequence[str], servers: Servers, ctx: Context, canned: Canned) -> Run:
    """Collect the traces of shards, the units of one task, and publish them. Raises AssertionError if one of them failed."""
    ctx.units = tuple(map(Unit, keys))
    counts: Counter[str] = Counter()
    began = time.monotonic()
    with canned.in_place(), contextlib.closing(Collection(servers, ctx)) as collection:
        for unit in ctx.units:
            result = collect.run(unit, collection, ctx)
            assert result is not None
            publish(ctx.stage_dir, unit.key, result.outputs, result.counts, {"attempt": ctx.attempt})
            counts.update({name: result.counts[name] for name in ("samples", "calls", "failed")})
    seconds = time.monotonic() - began
    assert counts["failed"] == 0, counts
    assert counts["calls"] == canned.calls, (counts, canned.calls)
    return Run(seconds, counts["samples"], canned.calls)
