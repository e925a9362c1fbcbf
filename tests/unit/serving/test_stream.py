"""Items in flight: how many, for how long, and what is told of them. The server is a thread that queues as vLLM does."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from diagcot.serving import Client, EncodedImage, Request, ServerSettings, ServingStats
from diagcot.serving.client import stream
from diagcot.serving.client.throttle import Load, Throttle
from diagcot.serving.server.endpoint import Endpoint
from diagcot.serving.server.server import Server
from tests.fakes.serving import QueueingServer


def server(queueing: QueueingServer, **settings: object) -> Server:
    where = f"unix:{queueing.socket}" if queueing.socket else f"http://127.0.0.1:{queueing.port}"
    made = ServerSettings(endpoint=where, endpoint_model="local", startup_timeout_s=5, **settings)  # type: ignore[arg-type]
    return Server([Endpoint(made)])


def asks(count: int) -> Iterator[Request]:
    return (Request(str(number), (("user", "look"),)) for number in range(count))


@pytest.mark.parametrize("slots", [2, 16])
def test_the_number_in_flight_follows_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slots: int) -> None:
    monkeypatch.setattr(stream, "INTERVAL_S", 0.05)
    seen: list[ServingStats] = []
    with QueueingServer(tmp_path / "s", slots=slots, delay_s=0.02) as queueing:
        served = server(queueing, in_flight=64)
        started = time.monotonic()
        assert (
            sum(reply.error is None for _, reply in served.complete(asks(60 * slots), progress=seen.append))
            == 60 * slots
        )
        took = time.monotonic() - started
    assert queueing.most_waiting >= 64 - slots  # it starts with the whole window
    settled = seen[len(seen) // 2 : -2]
    assert settled and max(stats.limit for stats in settled) <= 2 * slots + 8  # then few wait …
    assert min(stats.limit for stats in settled) > slots  # … but never none
    assert took < 3 * 60 * 0.02
    last = seen[-1]
    assert (last.done, last.requests, last.completion_tokens) == (60 * slots, 60 * slots, 300 * slots)
    assert last.cache_hit_rate == 0.4 and last.figures()["cache hits %"] == 40
    assert last.counts()["cached_tokens"] * 10 == last.counts()["told_tokens"] * 4


def test_a_full_cache_and_requests_pushed_out_lessen_what_is_sent() -> None:
    throttle = Throttle(96)
    throttle.update(Load(64, 9), 73)
    assert throttle.limit == 96
    throttle.update(Load(64, 9, kv_cache_use=0.97), 73)
    assert throttle.limit == 58
    for in_flight in (73, 66, 59):  # until the step has shown its effect there is no other
        throttle.update(Load(in_flight, 0, kv_cache_use=0.97), in_flight)
        assert throttle.limit == 58
    throttle.update(Load(50, 8, 0.5, preemptions=0), 58)
    throttle.update(Load(50, 8, 0.5, preemptions=2), 58)
    assert throttle.limit == 46
    for _ in range(60):
        throttle.update(Load(0, 50), throttle.limit)
    assert throttle.limit == 1
    for _ in range(60):
        throttle.update(Load(1, 0), 1)
    assert throttle.limit == 96


def test_a_server_without_metrics_gets_its_whole_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "INTERVAL_S", 0.05)
    seen: list[ServingStats] = []
    with QueueingServer(tmp_path / "s", slots=2, vllm=False) as queueing:
        assert len(list(server(queueing, in_flight=12).complete(asks(100), progress=seen.append))) == 100
    assert {stats.limit for stats in seen} == {12} and seen[-1].waiting is None
    assert queueing.most_waiting >= 10


def test_all_requests_of_a_sample_go_to_one_replica_and_the_samples_to_all(tmp_path: Path) -> None:
    async def work(client: Client, number: int) -> None:
        for step in range(4):
            await client.chat(Request(f"s{number}", (("user", f"s{number} {step}"),)))

    with QueueingServer(tmp_path / "a", slots=4) as one, QueueingServer(tmp_path / "b", slots=4) as other:
        both = Server([*server(one, in_flight=6).replicas, *server(other, in_flight=6).replicas])
        assert len(list(both.each(range(60), work))) == 60
    told = [[body["messages"][0]["content"] for body in queueing.bodies] for queueing in (one, other)]
    samples = [{text.split()[0] for text in texts} for texts in told]
    assert not samples[0] & samples[1] and sum(map(len, told)) == 240
    assert min(map(len, samples)) > 15


def test_replicas_get_work_as_fast_as_each_does_it(tmp_path: Path) -> None:
    with (
        QueueingServer(tmp_path / "a", slots=4, delay_s=0.05) as quick,
        QueueingServer(tmp_path / "b", slots=4, delay_s=0.25) as slow,
    ):
        both = Server([*server(quick, in_flight=6).replicas, *server(slow, in_flight=6).replicas])
        started = time.monotonic()
        assert len(list(both.complete(asks(240)))) == 240
        took = time.monotonic() - started
    done = len(quick.bodies), len(slow.bodies)
    assert 3 < done[0] / done[1] < 6  # five times as fast
    assert took < 2 * 240 / (4 / 0.05 + 4 / 0.25)  # neither waited for the other


def test_what_a_replica_has_beyond_its_limit_is_not_taken_from_another(tmp_path: Path) -> None:
    with QueueingServer(tmp_path / "a") as one, QueueingServer(tmp_path / "b") as other:
        client = Server([*server(one, in_flight=16).replicas, *server(other, in_flight=16).replicas]).client()
    slow = client._replicas[1]
    assert client.limit == 32 and slow.throttle is not None
    slow.in_flight, slow.throttle.limit = 12, 4  # it sank while twelve were on their way
    assert client.limit == 16 + 12
    slow.in_flight = 3
    assert client.limit == 16 + 4


def test_a_stop_gives_what_is_in_flight_its_grace_and_no_more(tmp_path: Path) -> None:
    pulled, finished = [], []

    def source() -> Iterator[int]:
        for number in range(100):
            pulled.append(number)
            yield number

    async def work(client: Client, number: int) -> int:
        for _ in range(1 if number % 2 else 1000):  # every second one takes for ever
            assert (await client.chat(Request(str(number), (("user", "look"),)))).error is None
        return number

    with QueueingServer(tmp_path / "s", slots=8, delay_s=0.02) as queueing:
        started = time.monotonic()
        for number in server(queueing, in_flight=8).each(source(), work, stopping=lambda: bool(finished), grace_s=0.3):
            finished.append(number)
        assert 0.25 < time.monotonic() - started < 3
    assert len(pulled) == 8 and set(finished) == {1, 3, 5, 7}


def test_an_error_of_the_work_ends_the_rest_and_is_raised(tmp_path: Path) -> None:
    async def work(client: Client, number: int) -> int:
        await client.chat(Request(str(number), (("user", "look"),)))
        if number == 3:
            raise ZeroDivisionError
        return number

    with QueueingServer(tmp_path / "s") as queueing, pytest.raises(ZeroDivisionError):
        list(server(queueing, in_flight=4).each(range(10**9), work))


def test_a_film_is_encoded_once_for_all_requests_of_its_sample() -> None:
    image = EncodedImage(b"\xff\xd8" * 1000)
    first, again = (Request("a", (("user", f"<image>{text}"),), (image,)).encode() for text in ("one", "two"))
    assert image.base64 in first and image.base64 in again and image.__dict__["base64"] is image.base64
    assert Request("a", (("user", "<image>one"),), (bytes(image),)).encode() == first
