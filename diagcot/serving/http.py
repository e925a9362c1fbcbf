"""HTTP/1.1 over persistent connections, for the call that a task makes a million times: a request to its server.

No proxy is read from the environment and no redirect is followed, so nothing is sent anywhere but to the address. General
HTTP clients need at least four times the CPU of this one per request (docs/serving.md). httptools parses the responses.
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
"""A connection that was idle for longer is not used again. Servers close idle connections (uvicorn after 5 s), and a
request that meets the closing would look like the death of the server."""
CONNECT_S = 10.0
"""Time limit for a connection."""

ENGINE_DEAD = 503
"""HTTP status of vLLM's /health when the engine has died (vllm/entrypoints/serve/instrumentator/health.py)."""


MOST_BODY = 256 << 20
"""Bytes of a response that are read; those of many long answers with their log-probabilities have some ten million."""

LATER = (408, 425, 429)
"""HTTP statuses below 500 after which the same request may be answered a moment later."""


class ConnectionLostError(Exception):
    """The connection ended before the response was complete."""


class UnreachableError(Exception):
    """No connection could be made: the request was not sent."""


@dataclass(frozen=True)
class Address:
    """Address of a server: `socket`, or `host` and `port`. `prefix` is put before every path."""

    socket: Path | None = None
    host: str = "server"
    port: int = 80
    tls: bool = False
    prefix: str = ""
    key: str | None = field(default=None, repr=False)  # sent as a bearer token

    def headers(self) -> bytes:
        """The header lines of every request, from Host on."""
        lines = [f"host: {self.host}", "content-type: application/json", "accept: application/json"]
        if self.key:
            lines.append(f"authorization: Bearer {self.key}")
        return ("\r\n".join(lines) + "\r\n").encode("latin-1")

    def connect(self, timeout_s: float) -> httpx.Client:
        """A plain client for the few calls that are not completions."""
        uds = str(self.socket) if self.socket else None
        return httpx.Client(
            # Reading the certificates takes longer than a call; without TLS there is nothing that they would verify.
            transport=httpx.HTTPTransport(uds=uds, trust_env=False, verify=self.tls),
            base_url=f"{'https' if self.tls else 'http'}://{self.host}:{self.port}{self.prefix}",
            headers={"authorization": f"Bearer {self.key}"} if self.key else None,
            timeout=timeout_s,
            trust_env=False,
        )


def refuses(status: int) -> bool:
    """Whether a status is an answer: the same request gets it again (401, 404), however long one waits."""
    return 400 <= status < 500 and status not in LATER


@dataclass(frozen=True)
class Response:
    """Status and body of an HTTP response."""

    status: int
    body: bytes


class _Connection(asyncio.Protocol):
    """One exchange at a time. The methods named on_* are called by the parser."""

    def __init__(self) -> None:
        self._reply: asyncio.Future[Response] | None = None
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)  # parses one response after the other
        self._parts: list[bytes] = []
        self._size = 0  # of the parts, in bytes
        self.reusable, self.idle_since = True, 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    async def exchange(self, request: Sequence[bytes], timeout_s: float) -> Response:
        """Send a request and wait for its response.

        Raises ConnectionLostError or TimeoutError. The connection cannot be used after either: the response may still come.
        """
        if self._transport is None or not self.reusable:
            raise ConnectionLostError("the connection was closed")
        self._parts.clear()
        self._size = 0
        loop = asyncio.get_running_loop()
        self._reply = loop.create_future()
        timer = loop.call_later(timeout_s, self._time_out, timeout_s)
        try:
            self._transport.writelines(request)
            return await self._reply
        except BaseException:
            self.close()
            raise
        finally:
            timer.cancel()

    def data_received(self, data: bytes) -> None:
        if self._reply is None or self._reply.done():  # no request is open
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionLostError(f"not HTTP: {error}"))

    def on_body(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > MOST_BODY:
            self._parts.clear()
            self._fail(ConnectionLostError(f"a response of over {MOST_BODY >> 20} MB"))
        else:
            self._parts.append(data)

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self.close()
        self.idle_since = time.monotonic()
        if self._reply is not None and not self._reply.done():
            self._reply.set_result(Response(self._parser.get_status_code(), b"".join(self._parts)))

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self.lose("the server closed the connection")

    def lose(self, reason: str) -> None:
        """End the exchange with ConnectionLostError."""
        self._fail(ConnectionLostError(reason))

    def _time_out(self, timeout_s: float) -> None:
        self._fail(TimeoutError(f"no reply in {timeout_s:.0f} s"))

    def _fail(self, error: Exception) -> None:
        self.close()
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(error)

    def close(self) -> None:
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()


class ConnectionPool:
    """The connections to one address, kept between requests. The newest is used first, so that the others become idle."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        self._address, self._timeout_s = address, timeout_s
        self._headers = address.headers()
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self._tls = ssl.create_default_context() if address.tls else None

    async def post(self, path: str, body: bytes) -> Response:
        """Raises UnreachableError, ConnectionLostError, or TimeoutError if there is no reply within the time limit."""
        start = f"POST {self._address.prefix}{path} HTTP/1.1\r\ncontent-length: {len(body)}\r\n".encode()
        return await self._exchange((start, self._headers, b"\r\n", body), self._timeout_s)

    async def get(self, path: str, timeout_s: float) -> Response:
        """Raises UnreachableError, ConnectionLostError, or TimeoutError if there is no reply within `timeout_s`."""
        start = f"GET {self._address.prefix}{path} HTTP/1.1\r\n".encode()
        return await self._exchange((start, self._headers, b"\r\n"), timeout_s)

    async def _exchange(self, request: Sequence[bytes], timeout_s: float) -> Response:
        connection = self._idle_connection() or await self._new_connection()
        self._busy.add(connection)
        try:
            response = await connection.exchange(request, timeout_s)
        finally:
            self._busy.discard(connection)
        if connection.reusable:
            self._idle.append(connection)
        return response

    def _idle_connection(self) -> _Connection | None:
        oldest = time.monotonic() - IDLE_S
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable and connection.idle_since >= oldest:
                return connection
            connection.close()
        return None

    async def _new_connection(self) -> _Connection:
        try:
            async with asyncio.timeout(CONNECT_S):
                while True:
                    try:
                        return await self._connect()
                    except BlockingIOError:  # the socket's queue is full: the server is busy, not absent
                        await asyncio.sleep(0.02)
        except (OSError, TimeoutError) as error:
            raise UnreachableError(str(error)) from error

    async def _connect(self) -> _Connection:
        loop, address = asyncio.get_running_loop(), self._address
        if address.socket is not None:
            _, connection = await loop.create_unix_connection(_Connection, str(address.socket))
        else:
            _, connection = await loop.create_connection(_Connection, address.host, address.port, ssl=self._tls)
        return connection

    def lose(self, reason: str) -> None:
        """End all exchanges with ConnectionLostError."""
        for connection in list(self._busy):
            connection.lose(reason)

    def close(self) -> None:
        """Close the idle connections."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()
