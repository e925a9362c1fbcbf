"""The asynchronous client: keeps a server busy, retries what may be retried, and records what may not."""

import asyncio
import random
from pathlib import Path
from types import TracebackType
from typing import Protocol

import httpx

from diagcot.serving.request import Reply, Request
from diagcot.serving.settings import ServerSettings

LOSSES = 3
"""A request whose connection was lost this often, the last times alone in flight, is given up as the cause."""


class Keeper(Protocol):
    """What a client needs of its server."""

    settings: ServerSettings
    generation: int

    @property
    def socket(self) -> Path: ...
    def revive(self, generation: int) -> None: ...
    def replied(self) -> None: ...


class Client:
    """Sends requests over the server's socket, at most `settings.window` at once.

    After a lost connection or an overdue reply it asks the server to revive itself (in a thread), then tries again.
    """

    def __init__(self, server: Keeper) -> None:
        self._server = server
        self._settings = settings = server.settings
        limits = httpx.Limits(max_connections=settings.window, max_keepalive_connections=settings.window)
        self._http = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(server.socket), limits=limits),
            base_url="http://server",
            timeout=httpx.Timeout(settings.request_timeout_s, pool=None, connect=10),
        )
        self._window = asyncio.Semaphore(settings.window)
        self._suspects = asyncio.Lock()

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._http.aclose()

    async def chat(self, request: Request) -> Reply:
        """The reply, which has `error` set where the request itself is at fault or was given up.

        Raises ServerError only if there is no server any more.
        """
        try:
            body = request.body()
        except ValueError as error:
            return Reply(error=str(error))
        losses = busy = 0
        while True:
            generation = self._server.generation
            try:
                # One that was in flight at two deaths of the server is tried alone among its kind: so the request
                # that kills servers is told from those that only stood beside it.
                response = await (self._alone(body) if losses >= LOSSES - 1 else self._send(body))
            except (httpx.ConnectError, httpx.ConnectTimeout):  # sent to nobody: no fault of this request
                await asyncio.to_thread(self._server.revive, generation)
                await asyncio.sleep(0.05)
                continue
            except (httpx.TransportError, OSError) as error:
                losses += 1
                late = isinstance(error, httpx.ReadTimeout)
                if losses >= LOSSES:
                    limit = self._settings.request_timeout_s
                    what = f"no reply in {limit:.0f} s" if late else "the server died"
                    await asyncio.to_thread(self._server.revive, generation)
                    return Reply(error=f"{what} at each of {losses} tries")
                await asyncio.to_thread(self._server.revive, generation)
                continue
            if response.status_code == 429 or response.status_code >= 500:
                busy += 1
                if busy > self._settings.retries:
                    return Reply(error=f"HTTP {response.status_code} at each of {busy} tries: {_message(response)}")
                await asyncio.sleep(random.uniform(0.5, 1.0) * min(0.25 * 2**busy, 15.0))
                if response.status_code >= 500:
                    await asyncio.to_thread(self._server.revive, generation)
                continue
            if response.status_code != 200:
                return Reply(error=f"HTTP {response.status_code}: {_message(response)}")
            try:
                reply = Reply.from_body(response.json())
                self._server.replied()
                return reply
            except (ValueError, LookupError, TypeError) as error:
                busy += 1
                if busy > self._settings.retries:
                    return Reply(error=f"the server's reply is not a completion ({type(error).__name__})")

    async def _send(self, body: object) -> httpx.Response:
        async with self._window:
            return await self._http.post("/v1/chat/completions", json=body)

    async def _alone(self, body: object) -> httpx.Response:
        async with self._suspects:
            return await self._send(body)


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])[:300]
    except (ValueError, LookupError, TypeError):
        return response.reason_phrase
