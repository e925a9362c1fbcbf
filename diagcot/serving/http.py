"""HTTP/1.1 over kept connections, for the one thing that a task does a million times: ask its server.

No proxy is read from the environment and no redirect is followed, so nothing goes anywhere but to the address. General
HTTP clients take four times the CPU of this one a request, and more (docs/serving.md); the parsing is httptools'.
"""

import asyncio
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import httptools
import httpx

IDLE_S = 2.0
"""A connection that rested longer is not used again: servers close idle ones (uvicorn after 5 s), and a request that
meets the closing looks like a death."""


class Lost(Exception):
    """The connection ended before the reply was whole."""


class Unreachable(Exception):
    """No connection could be made: the request was sent to nobody."""


@dataclass(frozen=True)
class Address:
    """Where a server answers, and as what. `socket` or `host` and `port`; `prefix` is put before every path."""

    socket: Path | None = None
    host: str = "server"
    port: int = 80
    tls: bool = False
    prefix: str = ""
    key: str | None = field(default=None, repr=False)  # sent as a bearer token

    def head(self) -> bytes:
        """The header lines of every request, from Host on."""
        lines = [f"host: {self.host}", "content-type: application/json", "accept: application/json"]
        if self.key:
            lines.append(f"authorization: Bearer {self.key}")
        return ("\r\n".join(lines) + "\r\n").encode("latin-1")

    def connect(self, timeout_s: float) -> httpx.Client:
        """A plain client for the few calls that are no completions."""
        return httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self.socket) if self.socket else None, trust_env=False),
            base_url=f"{'https' if self.tls else 'http'}://{self.host}:{self.port}{self.prefix}",
            headers={"authorization": f"Bearer {self.key}"} if self.key else None,
            timeout=timeout_s,
            trust_env=False,
        )


@dataclass(frozen=True)
class Response:
    status: int
    body: bytes


class _Connection(asyncio.Protocol):
    """One exchange at a time. The callbacks named on_* are the parser's."""

    def __init__(self) -> None:
        self._reply: asyncio.Future[Response] | None = None
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)  # of one response after the other
        self._parts: list[bytes] = []
        self.reusable, self.rested = True, 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    async def exchange(self, request: Sequence[bytes], deadline_s: float) -> Response:
        """Raises Lost, or TimeoutError. The connection is of no use after either: the reply may still come."""
        if self._transport is None or not self.reusable:
            raise Lost("the connection was closed")
        self._parts.clear()
        loop = asyncio.get_running_loop()
        self._reply = loop.create_future()
        late = loop.call_later(deadline_s, self._late, deadline_s)
        try:
            self._transport.writelines(request)
            return await self._reply
        except BaseException:
            self.close()
            raise
        finally:
            late.cancel()

    def data_received(self, data: bytes) -> None:
        if self._reply is None or self._reply.done():  # nothing was asked
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(Lost(f"not HTTP: {error}"))

    def on_body(self, data: bytes) -> None:
        self._parts.append(data)

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self.close()
        self.rested = time.monotonic()
        if self._reply is not None and not self._reply.done():
            self._reply.set_result(Response(self._parser.get_status_code(), b"".join(self._parts)))

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._fail(Lost("the server closed the connection"))

    def _late(self, deadline_s: float) -> None:
        self._fail(TimeoutError(f"no reply in {deadline_s:.0f} s"))

    def _fail(self, error: Exception) -> None:
        self.close()
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(error)

    def close(self) -> None:
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()


class Pool:
    """The connections to one address, kept between requests. The newest is used first, so that the others rest."""

    def __init__(self, address: Address, deadline_s: float) -> None:
        self._address, self._deadline = address, deadline_s
        self._head = address.head()
        self._resting: list[_Connection] = []
        self._tls = ssl.create_default_context() if address.tls else None

    async def post(self, path: str, body: bytes) -> Response:
        """Raises Unreachable, Lost, or TimeoutError if there is no reply within the deadline."""
        start = f"POST {self._address.prefix}{path} HTTP/1.1\r\ncontent-length: {len(body)}\r\n".encode()
        return await self._exchange((start, self._head, b"\r\n", body), self._deadline)

    async def get(self, path: str, deadline_s: float) -> Response:
        start = f"GET {self._address.prefix}{path} HTTP/1.1\r\n".encode()
        return await self._exchange((start, self._head, b"\r\n"), deadline_s)

    async def _exchange(self, request: Sequence[bytes], deadline_s: float) -> Response:
        connection = self._rested() or await self._open()
        response = await connection.exchange(request, deadline_s)
        if connection.reusable:
            self._resting.append(connection)
        return response

    def _rested(self) -> _Connection | None:
        oldest = time.monotonic() - IDLE_S
        while self._resting:
            connection = self._resting.pop()
            if connection.reusable and connection.rested >= oldest:
                return connection
            connection.close()
        return None

    async def _open(self) -> _Connection:
        try:
            async with asyncio.timeout(10):
                while True:
                    try:
                        return await self._connect()
                    except BlockingIOError:  # the socket's queue is full: a busy server, not an absent one
                        await asyncio.sleep(0.02)
        except (OSError, TimeoutError) as error:
            raise Unreachable(str(error)) from error

    async def _connect(self) -> _Connection:
        loop, address = asyncio.get_running_loop(), self._address
        if address.socket is not None:
            _, made = await loop.create_unix_connection(_Connection, str(address.socket))
        else:
            _, made = await loop.create_connection(_Connection, address.host, address.port, ssl=self._tls)
        return made

    def close(self) -> None:
        for connection in self._resting:
            connection.close()
        self._resting.clear()
