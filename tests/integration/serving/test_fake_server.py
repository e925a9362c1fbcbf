"""The scripted model server itself: what tests and benchmarks rest on."""

import asyncio
import json
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from diagcot.serving import Request
from diagcot.serving.request import Reply
from tests.fakes.model_server import Connection, Model, delay
from tests.fakes.serving import write_script

CHAT = "/v1/chat/completions"
VERDICT = {"type": "object", "properties": {"verdict": {"type": "boolean"}}}


def model(root: Path, **script: Any) -> Model:
    return Model(script, root / "script.log")


def bodies(count: int, **more: Any) -> list[bytes]:
    asked = (Request(str(n), (("user", f"<image>question {n}"),), (b"film",), **more) for n in range(count))
    return [request.encode() for request in asked]


def verdicts(root: Path, share: float) -> list[bool]:
    async def ask() -> list[bool]:
        made = model(root, verdict=share)
        rows = [await made.answer(CHAT, body) for body in bodies(200, schema=VERDICT)]
        return [json.loads(Reply.from_body(row).text)["verdict"] for _, row in rows]

    return asyncio.run(ask())


def test_replies_are_a_function_of_the_request(tmp_path):
    first, again = verdicts(tmp_path, 0.3), verdicts(tmp_path, 0.3)
    assert first == again and 30 < sum(first) < 90
    assert not any(verdicts(tmp_path, 0.0)) and all(verdicts(tmp_path, 1.0))


@pytest.mark.parametrize(
    ("told", "median", "most"),
    [
        (0.2, 0.2, 0.2),
        ({"uniform": [0.1, 0.3]}, 0.2, 0.3),
        ({"exponential": 0.2}, 0.1386, 9),
        ({"lognormal": [0.2, 0.5]}, 0.2, 9),
    ],
)
def test_delays_follow_their_distribution(told, median, most):
    drawn = [delay(told, n.to_bytes(8, "big")) for n in range(2000)]
    assert statistics.median(drawn) == pytest.approx(median, rel=0.08) and min(drawn) >= 0 and max(drawn) <= most
    assert drawn[:9] == [delay(told, n.to_bytes(8, "big")) for n in range(9)]
    with pytest.raises(ValueError, match="weibull is no distribution"):
        delay({"weibull": 1}, b"")


def test_slots_bound_what_runs_the_rest_waits_and_the_queue_refuses(tmp_path):
    async def ask() -> tuple[dict[str, float], list[int]]:
        made = model(tmp_path, slots=3, queue=4, delay_s=0.01)
        tasks = [asyncio.create_task(made.answer(CHAT, body)) for body in bodies(10)]
        await asyncio.sleep(0.005)
        _, text = await made.answer("/metrics", b"")
        seen = {line.split("{")[0]: float(line.split()[-1]) for line in text.decode().splitlines()}
        return seen, [(await task)[0] for task in tasks]

    seen, statuses = asyncio.run(ask())
    assert (seen["vllm:num_requests_running"], seen["vllm:num_requests_waiting"]) == (3, 4)
    assert 0 < seen["vllm:kv_cache_usage_perc"] < 1
    assert statuses == [200] * 7 + [429] * 3


def test_the_prefix_cache_holds_what_was_asked_before_and_forgets(tmp_path):
    async def hits(tokens: int, *asked: str) -> list[int]:
        made, found = model(tmp_path, kv_tokens=tokens), []
        for text in asked:
            before = made.counts["prefix_cache_hits"]
            request = Request("x", (("user", "<image>" + text),), (b"film",))
            await made.answer(CHAT, request.encode())
            found.append(made.counts["prefix_cache_hits"] - before)
        return found

    same, other = "a" * 128 + "b" * 64, "a" * 128 + "c" * 64
    assert asyncio.run(hits(10_000, same, same, other, "b" + same)) == [0, 256 + 48, 256 + 32, 256]
    assert asyncio.run(hits(48, same, other)) == [0, 0]  # three blocks: the film is dropped first


def test_it_dies_and_hangs_when_told_to(tmp_path, monkeypatch):
    write_script(tmp_path, monkeypatch, die_after=2)
    command = [sys.executable, "-m", "tests.fakes.model_server", "m", "--uds", str(tmp_path / "s")]
    for code in (1, None):  # only the first process dies
        (tmp_path / "s").unlink(missing_ok=True)
        child = subprocess.Popen(command)
        answers = []
        end = time.monotonic() + 20
        with socket.socket(socket.AF_UNIX) as http:
            while http.connect_ex(str(tmp_path / "s")) and time.monotonic() < end:
                time.sleep(0.01)
            for body in bodies(3):
                http.sendall(b"POST %s HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % (CHAT.encode(), len(body)) + body)
                answers.append(http.recv(1 << 16)[:12])
        assert answers == [b"HTTP/1.1 200"] * 2 + [b"" if code else b"HTTP/1.1 200"]
        if code is None:
            child.kill()
        assert child.wait(10) == (code or -9)

    async def hanging() -> str:
        made = model(tmp_path / "new", hang_after=1)
        for path, body in ((CHAT, bodies(1)[0]), ("/health", b"")):
            try:
                await asyncio.wait_for(made.answer(path, body), 0.05)
            except TimeoutError:
                return path
        return ""

    (tmp_path / "new").mkdir()
    assert asyncio.run(hanging()) == "/health"


def test_requests_in_one_piece_and_in_many_are_read_alike(tmp_path):
    async def ask(step: int) -> list[bytes]:
        sent: list[bytes] = []
        connection = Connection(model(tmp_path))
        connection.connection_made(type("Transport", (), {"write": staticmethod(sent.append), "close": lambda: None}))
        wire = b"".join(
            b"POST %s HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (CHAT.encode(), len(b)) + b for b in bodies(3)
        )
        for at in range(0, len(wire), step):
            connection.data_received(wire[at : at + step])
            await asyncio.sleep(0)
        while connection.task:
            await asyncio.sleep(0)
        return sent

    whole, pieces = asyncio.run(ask(10**6)), asyncio.run(ask(7))
    assert len(whole) == 3 and whole == pieces
