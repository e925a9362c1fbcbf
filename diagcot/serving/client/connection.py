"""One replica of a server as its client sees it."""

import asyncio
import time
from typing import Protocol

from diagcot.serving.client.throttle import Load, Throttle
from diagcot.serving.errors import ServerError
from diagcot.serving.http import ENGINE_DEAD, Address, ConnectionLostError, ConnectionPool, Response, UnreachableError
from diagcot.serving.settings import ServerSettings

METRICS_TIMEOUT_S = 10.0
SILENCE_S = 5.0
"""Seconds without any reply after which a server with requests is asked whether its engine is alive."""
HEALTH_TIMEOUT_S = 10.0
NO_METRICS = (200, 401, 403, 404, 405)
"""HTTP statuses after which /metrics is not asked again: the server has none, or none that we may read."""


class ModelServer(Protocol):
    """What a client needs of a server, either started by us or not."""

    settings: ServerSettings
    generation: int
    model: str
    vllm: bool

    @property
    def address(self) -> Address:
        """Where the server answers."""

    def revive(self, generation: int) -> None:
        """Return when a healthy server answers; replace process number `generation` if it is dead. Raises ServerError."""

    def replied(self) -> None:
        """A valid reply arrived from the server."""


class ReplicaConnection:
    """Connections to one replica, its load, and whether it is still available."""

    def __init__(self, server: ModelServer) -> None:
        self.server = server
        self.throttle: Throttle | None = Throttle(server.settings.window)
        self.in_flight = 0
        self.failure: ServerError | None = None  # why the replica cannot be revived any more
        self._window = asyncio.Semaphore(server.settings.window)
        self._pool = ConnectionPool(server.address, server.settings.request_timeout_s)
        self._reviving: asyncio.Task[None] | None = None
        self._replied = 0.0  # when the last reply came
        self._timer: asyncio.TimerHandle | None = None
        self._check: asyncio.Task[None] | None = None

    @property
    def limit(self) -> int:
        """Maximum number of requests in flight now."""
        return self.throttle.limit if self.throttle else self.server.settings.window

    async def send(self, body: bytes) -> Response:
        """Post a request. Raises UnreachableError, ConnectionLostError or TimeoutError."""
        self.in_flight += 1
        self._watch()
        try:
            async with self._window:
                response = await self._pool.post("/v1/chat/completions", body)
                self._replied = time.monotonic()
                return response
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self._stop_watching()

    def _watch(self) -> None:
        """Look after SILENCE_S seconds, and again as long as requests are in flight."""
        if self._timer is None and self.server.vllm:
            self._timer = asyncio.get_running_loop().call_later(SILENCE_S, self._look)

    def _stop_watching(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._check is not None:
            self._check.cancel()
        self._timer = self._check = None

    def _look(self) -> None:
        self._timer = None
        if time.monotonic() - self._replied >= SILENCE_S and (self._check is None or self._check.done()):
            self._check = asyncio.get_running_loop().create_task(self._check_engine())
        if self.in_flight:
            self._watch()

    async def _check_engine(self) -> None:
        """Lose all requests if the engine is dead: vLLM's API process may outlive it, and would never answer them.

        A server that is only slow to say how it is has until the requests' own deadline.
        """
        try:
            response = await self._pool.get("/health", HEALTH_TIMEOUT_S)
        except TimeoutError:
            return
        except (ConnectionLostError, UnreachableError) as error:
            if not isinstance(error.__cause__, TimeoutError):
                self._pool.lose("the server does not answer any more")
            return
        if response.status == ENGINE_DEAD:
            self._pool.lose("the server's engine is dead")

    async def revive(self, generation: int) -> None:
        """Have the server revived in a thread; all callers wait for the same thread. Raises ServerError."""
        if self.failure:
            raise self.failure
        if self._reviving is None or self._reviving.done():
            self._reviving = asyncio.create_task(asyncio.to_thread(self.server.revive, generation))
        try:
            await asyncio.shield(self._reviving)
        except ServerError as error:
            self.failure = error
            raise

    async def read_metrics(self) -> None:
        """Adjust the limit to the load on /metrics; a server without metrics keeps its whole window."""
        if self.throttle is None or self.failure:
            return
        try:
            response = await self._pool.get("/metrics", METRICS_TIMEOUT_S)
        except (
            ConnectionLostError,
            UnreachableError,
            TimeoutError,
        ):  # a request in flight notices it and revives the server
            return
        load = Load.read(response.body) if response.status == 200 else None
        if load is not None:
            self.throttle.update(load, self.in_flight)
        elif response.status in NO_METRICS:
            self.throttle = None

    def close(self) -> None:
        """Close the idle connections."""
        self._pool.close()
