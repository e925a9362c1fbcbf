"""Starts the scripted server through the project's own `serve`; and a server in a thread that queues as vLLM does."""

import asyncio
import contextlib
import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from diagcot.jobs.testing import context
from diagcot.serving import Server, ServerSettings, serve

COMMAND = [sys.executable, "-m", "tests.fakes.model_server"]


def model_folder(root: Path) -> Path:
    folder = root / "model"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def write_script(root: Path, monkeypatch: pytest.MonkeyPatch, **script: Any) -> Path:
    path = root / "script.json"
    path.write_text(json.dumps(script))
    monkeypatch.setenv("DIAGCOT_FAKE_SCRIPT", str(path))
    return path


def settings(**values: Any) -> ServerSettings:
    return ServerSettings(
        **({"startup_timeout_s": 20, "shutdown_timeout_s": 1, "request_timeout_s": 5, "in_flight": 8} | values)
    )


@contextmanager
def fake(
    root: Path, monkeypatch: pytest.MonkeyPatch, server: dict[str, Any] | None = None, **script: Any
) -> Iterator[Server]:
    write_script(root, monkeypatch, **script)
    with serve(model_folder(root), settings(**(server or {})), context(root), command=COMMAND) as running:
        yield running


def prompts_seen(root: Path) -> list[str]:
    return [line for line in (root / "script.log").read_text().splitlines() if line != "start"]


def starts(root: Path) -> int:
    return (root / "script.log").read_text().splitlines().count("start")


def calls(root: Path) -> list[tuple[float, str, str]]:
    """Time, path and body of each call of a control route."""
    path = root / "script.calls"
    rows = [line.split(" ", 2) for line in path.read_text().splitlines()] if path.exists() else []
    return [(float(at), route, body) for at, route, body in rows]


class QueueingServer:
    """An OpenAI-compatible server in a thread of the test, with vLLM's queue and metrics: `slots` requests are computed
    at once for `delay_s` each, the rest waits. With `vllm=False` it has no /metrics and knows no additions."""

    def __init__(self, socket: Path | None = None, *, slots: int = 8, delay_s: float = 0.01, vllm: bool = True) -> None:
        self.socket, self.slots, self.delay_s, self.vllm = socket, slots, delay_s, vllm
        self.running = self.waiting = self.preemptions = 0
        self.kv: float | None = None  # reported instead of the share of slots in use
        self.port = 0
        self.most_waiting = 0
        self.bodies: list[dict[str, Any]] = []
        self.heads: list[bytes] = []
        self._ready, self._loop = threading.Event(), asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._main(),), daemon=True)

    def __enter__(self) -> "QueueingServer":
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)

    async def _main(self) -> None:
        self._over, self._free = asyncio.Event(), asyncio.Semaphore(self.slots)
        if self.socket is not None:
            server = await asyncio.start_unix_server(self._serve, self.socket, limit=1 << 26)
        else:
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 26)
            self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._over.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                found = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
                body = await reader.readexactly(int(found[1])) if found else b""
                status, data = await self._answer(head.split()[1].decode(), head, body)
                start = f"HTTP/1.1 {status} X\r\ncontent-length: {len(data)}\r\nlocation: http://localhost:1/\r\n\r\n"
                writer.write(start.encode() + data)
                await writer.drain()
        writer.close()

    async def _answer(self, path: str, head: bytes, body: bytes) -> tuple[int, bytes]:
        if path == "/v1/models":
            rows = [{"id": "local", "owned_by": "vllm" if self.vllm else "somebody"}]
            return 200, json.dumps({"data": rows}).encode()
        if path == "/metrics":
            return (200, self._metrics()) if self.vllm else (404, b"")
        if path != "/v1/chat/completions":
            return 307, b""
        self.heads.append(head)
        self.bodies.append(json.loads(body))
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        async with self._free:
            self.waiting -= 1
            self.running += 1
            await asyncio.sleep(self.delay_s)
            self.running -= 1
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}
        choice = {"index": 0, "message": {"role": "assistant", "content": "told"}, "finish_reason": "stop"}
        return 200, json.dumps({"choices": [choice], "usage": usage}).encode()

    def _metrics(self) -> bytes:
        label = '{engine="0",model_name="local"}'
        use = self.running / self.slots if self.kv is None else self.kv
        values = {
            "num_requests_running": self.running,
            "num_requests_waiting": self.waiting,
            "kv_cache_usage_perc": use * 0.9 if self.kv is None else use,
            "num_preemptions_total": self.preemptions,
        }
        lines = [f"# HELP vllm:{name} some words\nvllm:{name}{label} {value}" for name, value in values.items()]
        return "\n".join([*lines, f"vllm:num_requests_waiting_by_reason{label} 99", ""]).encode()
