"""Items through a server: pulled as it takes them, worked on many at once, yielded as they are finished."""

import asyncio
import gc
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import uvloop

from diagcot.serving.client.client import Client

T = TypeVar("T")
R = TypeVar("R")

LOOK_S = 1.0
"""How often the metrics of the server are read and progress is told."""
SPAN_S = 15.0
"""Rates are those of the last so many seconds."""


@dataclass(frozen=True)
class Flow:
    """Where the work stands: rates of the last seconds, the state of the server, and totals since the start.

    cache_hit_rate: share of the prompts' tokens that the server had computed before, 0 to 1; None where it does not tell.
    """

    done: int = 0  # items
    in_flight: int = 0  # items
    limit: int = 0  # items that may be in flight now
    requests_per_s: float = 0.0
    tokens_per_s: float = 0.0  # generated
    prompt_tokens_per_s: float = 0.0
    cache_hit_rate: float | None = None
    running: int | None = None  # requests that the server computes, those that wait there, and the fullest KV cache
    waiting: int | None = None
    kv_cache_use: float | None = None
    seconds: float = 0.0
    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    told_tokens: int = 0  # of prompts, those for which the server told how many were cached
    completion_tokens: int = 0

    def figures(self) -> dict[str, float]:
        """For `ctx.progress`: what a person wants to see."""
        found: dict[str, float] = {
            "tokens/s": round(self.tokens_per_s, 1),
            "requests/s": round(self.requests_per_s, 1),
            "in flight": self.in_flight,
        }
        if self.waiting is not None:
            found["waiting"] = self.waiting
        if self.cache_hit_rate is not None:
            found["cache hits %"] = round(100 * self.cache_hit_rate, 1)
        return found

    def counts(self) -> dict[str, float]:
        """For the counts of a unit, which add up over units: rates and the share of cache hits follow from them."""
        return {
            "serving_seconds": round(self.seconds, 3),
            "requests": self.requests,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "told_tokens": self.told_tokens,
            "completion_tokens": self.completion_tokens,
        }


class _Meter:
    """Turns a client's totals into a Flow."""

    def __init__(self, client: Client) -> None:
        self._client, self._began = client, time.monotonic()
        self._seen: deque[tuple[float, int, int, int]] = deque([(self._began, 0, 0, 0)])

    def read(self, done: int, in_flight: int) -> Flow:
        now, totals = time.monotonic(), self._client.totals
        self._seen.append((now, totals.requests, totals.completion_tokens, totals.prompt_tokens))
        while len(self._seen) > 2 and self._seen[1][0] < now - SPAN_S:
            self._seen.popleft()
        first, span = self._seen[0], max(now - self._seen[0][0], 1e-3)
        loads = self._client.loads
        return Flow(
            done,
            in_flight,
            self._client.limit,
            requests_per_s=(totals.requests - first[1]) / span,
            tokens_per_s=(totals.completion_tokens - first[2]) / span,
            prompt_tokens_per_s=(totals.prompt_tokens - first[3]) / span,
            cache_hit_rate=totals.cached_tokens / totals.told_tokens if totals.told_tokens else None,
            running=int(sum(load.running for load in loads)) if loads else None,
            waiting=int(sum(load.waiting for load in loads)) if loads else None,
            kv_cache_use=max(load.kv_cache_use for load in loads) if loads else None,
            seconds=now - self._began,
            **vars(totals),
        )


def flow(
    client: Client,
    items: Iterable[T],
    work: Callable[[Client, T], Awaitable[R]],
    stopping: Callable[[], bool] = lambda: False,
    grace_s: float | None = None,
    progress: Callable[[Flow], None] = lambda _: None,
) -> Iterator[R]:
    """See `Server.each`. The event loop is this generator's own, and runs while the caller waits for the next result."""
    loop = uvloop.new_event_loop()
    source, running, finished = iter(items), set[asyncio.Task[R]](), deque[asyncio.Task[R]]()
    meter, done, told = _Meter(client), 0, time.monotonic()
    more, stopped, woken, give_up = True, False, True, float("inf")

    def settled(task: asyncio.Task[R]) -> None:
        running.discard(task)
        finished.append(task)
        wake()

    def wake() -> None:
        nonlocal woken
        if not woken:  # a second stop would outlive this run of the loop and end the next one at its start
            woken = True
            loop.stop()

    async def steer() -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            await client.look()

    steering = loop.create_task(steer())
    # What is there already is not looked through again and again: with the cases of a large shard in memory the collector
    # would stop all calls for a tenth of a second each time.
    gc.freeze()
    try:
        while True:
            if not stopped and stopping():
                more, stopped = False, True
                give_up = float("inf") if grace_s is None else time.monotonic() + grace_s
            while more and len(running) < client.limit:
                try:
                    item = next(source)
                except StopIteration:
                    more = False
                    break
                task = loop.create_task(_run(work, client, item))
                running.add(task)
                task.add_done_callback(settled)
            if not running and not finished:
                return
            if not finished:
                woken = False
                tick = loop.call_later(LOOK_S / 2, wake)
                loop.run_forever()
                tick.cancel()
            if time.monotonic() - told >= LOOK_S:
                told = time.monotonic()
                progress(meter.read(done, len(running)))
            while finished:
                done += 1
                yield finished.popleft().result()
            if time.monotonic() > give_up:
                return
    finally:
        progress(meter.read(done, len(running)))
        loop.run_until_complete(_end(client, [steering, *running, *finished]))
        gc.unfreeze()
        loop.close()  # a thread that revives a server is not waited for: `close` of the server ends it


async def _run(work: Callable[[Client, T], Awaitable[R]], client: Client, item: T) -> R:
    return await work(client, item)


async def _end(client: Client, tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await client.__aexit__(None, None, None)
