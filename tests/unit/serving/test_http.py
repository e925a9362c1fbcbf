"""The connection to a server: what it does not take from one."""

import asyncio
from pathlib import Path

import pytest

from diagcot.serving import http


@pytest.mark.parametrize(("size", "taken"), [(1000, True), (1001, False), (100_000, False)])
def test_a_response_that_would_fill_memory_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, taken: bool
) -> None:
    monkeypatch.setattr(http, "MOST_BODY", 1000)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size)
        await writer.drain()

    async def asked() -> int:
        server = await asyncio.start_unix_server(answer, tmp_path / "s")
        pool = http.ConnectionPool(http.Address(socket=tmp_path / "s"), 10)
        try:
            return len((await pool.post("/", b"")).body)
        finally:
            pool.close()
            server.close()

    if taken:
        assert asyncio.run(asked()) == size
    else:
        with pytest.raises(http.ConnectionLostError, match="a response of over"):
            asyncio.run(asked())
