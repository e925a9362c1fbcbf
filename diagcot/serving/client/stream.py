"""Runs asynchronous work on a stream of items, many at a time, and yields the results as they finish."""

import asyncio
import gc
import time
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable
from typing import Any, Generic, TypeVar

import uvloop

from diagcot.serving.client.client import Client
from diagcot.serving.client.stats import ServingStats, StatsMeter

Item = TypeVar("Item")
Output = TypeVar("Output")

INTERVAL_S = 1.0
"""How often the metrics of the server are read and progress is reported."""


class WorkStream(Generic[Item, Output]):
    """The items in work on an event loop of its own, which runs only while `results` waits for the next result."""

    def __init__(
        self, client: Client, items: Iterable[Item], work: Callable[[Client, Item], Awaitable[Output]]
    ) -> None:
        self._client, self._items, self._work = client, iter(items), work
        self._loop = uvloop.new_event_loop()
        self._running: set[asyncio.Task[Output]] = set()
        self._finished: deque[asyncio.Task[Output]] = deque()
        self._more_items = True
        self._waking = True
        self._meter = StatsMeter(client)
        self._done = 0

    def results(
        self,
        stopping: Callable[[], bool],
        grace_s: float | None,
        progress: Callable[[ServingStats], None],
    ) -> Generator[Output]:
        """See `Server.each`."""
        steering = self._loop.create_task(self._steer())
        end, reported = float("inf"), time.monotonic()
        stopped = False
        # Without this, the garbage collector would walk the samples of a large shard again and again and pause all
        # requests for a tenth of a second each time.
        gc.freeze()
        try:
            while True:
                if not stopped and stopping():
                    stopped, self._more_items = True, False
                    end = float("inf") if grace_s is None else time.monotonic() + grace_s
                self._start_items()
                if not self._running and not self._finished:
                    return
                if not self._finished:
                    self._wait()
                if time.monotonic() - reported >= INTERVAL_S:
                    reported = time.monotonic()
                    progress(self.stats())
                while self._finished:
                    self._done += 1
                    yield self._finished.popleft().result()
                if time.monotonic() > end:
                    return
        finally:
            progress(self.stats())
            self._close([steering, *self._running, *self._finished])

    def stats(self) -> ServingStats:
        """Statistics of the work so far."""
        return self._meter.read(self._done, len(self._running))

    def _start_items(self) -> None:
        """Start the next items, as many as the client's limit allows."""
        while self._more_items and len(self._running) < self._client.limit:
            try:
                item = next(self._items)
            except StopIteration:
                self._more_items = False
                return
            task = self._loop.create_task(self._run(item))
            self._running.add(task)
            task.add_done_callback(self._finish)

    async def _run(self, item: Item) -> Output:
        return await self._work(self._client, item)

    def _finish(self, task: "asyncio.Task[Output]") -> None:
        self._running.discard(task)
        self._finished.append(task)
        self._wake()

    def _wait(self) -> None:
        """Run the event loop until an item has finished, for half an interval at most."""
        self._waking = False
        timer = self._loop.call_later(INTERVAL_S / 2, self._wake)
        self._loop.run_forever()
        timer.cancel()

    def _wake(self) -> None:
        if not self._waking:  # a second stop would remain in the loop and end its next run at once
            self._waking = True
            self._loop.stop()

    async def _steer(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            await self._client.read_metrics()

    def _close(self, tasks: list[asyncio.Task[Any]]) -> None:
        self._loop.run_until_complete(_cancel(tasks))
        self._client.close()
        gc.unfreeze()
        self._loop.close()  # does not wait for a thread that revives a server: closing the server ends that thread


async def _cancel(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
