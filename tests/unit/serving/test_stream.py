"""Items in flight: their number, their order and their statistics. The server is a thread that queues as vLLM does."""

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


@pytest.mark.parametrize("slots", [2, 16, 64])
@pytest.mark.parametrize("finished", [1.0, 4.0])
def test_a_short_queue_is_kept_at_the_server(slots: int, finished: float) -> None:
    """The server computes `slots` requests at once and finishes `finished` times as many between two looks."""
    throttle, in_flight = Throttle(3 * slots + 16), 3 * slots + 16  # it starts with the whole window
    limits, queues = [], []
    for _ in range(80):
        running = min(slots, in_flight)
        queues.append(in_flight - running)
        throttle.update(Load(running, in_flight - running), in_flight)
        limits.append(throttle.limit)
        in_flight = max(throttle.limit, in_flight - int(finished * slots))
    assert max(limits[40:]) <= 2 * slots + 8  # few requests wait
    assert min(queues[40:]) > 0  # but the queue is never empty


def test_the_number_in_flight_follows_the_metrics_of_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "INTERVAL_S", 0.05)
    reports: list[ServingStats] = []
    with QueueingServer(tmp_path / "s", slots=4, delay_s=0.02) as queueing:
        replies = [reply for _, reply in server(queueing, in_flight=64).complete(asks(240), progress=reports.append)]
    assert len(replies) == 240 and not [reply.error for reply in replies if reply.error]
    assert min(report.limit for report in reports) < 64 == ServerSettings(in_flight=64).window
    last = reports[-1]
    assert (last.done, last.requests, last.completion_tokens) == (240, 240, 1200)
    assert last.cache_hit_rate == 0.4 and last.figures()["cache hits %"] == 40
    assert last.counts()["cached_tokens"] * 10 == last.counts()["told_tokens"] * 4


def test_a_full_cache_and_evicted_requests_lower_the_limit() -> None:
    throttle = Throttle(96)
    throttle.update(Load(64, 9), 73)
    assert throttle.limit == 96
    throttle.update(Load(64, 9, kv_cache_use=0.97), 73)
    assert throttle.limit == 58
    for in_flight in (73, 66, 59):  # no further step before this one has taken effect
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
    reports: list[ServingStats] = []
    with QueueingServer(tmp_path / "s", slots=2, delay_s=0.05, vllm=False) as queueing:
        assert len(list(server(queueing, in_flight=12).complete(asks(40), progress=reports.append))) == 40
    assert {stats.limit for stats in reports} == {12} and reports[-1].waiting is None
    assert queueing.most_waiting >= 10


def test_all_requests_of_a_sample_go_to_one_replica_and_the_samples_to_all(tmp_path: Path) -> None:
    async def work(client: Client, number: int) -> None:
        for step in range(4):
            await client.chat(Request(f"s{number}", (("user", f"s{number} {step}"),)))

    with QueueingServer(tmp_path / "a", slots=4) as one, QueueingServer(tmp_path / "b", slots=4) as other:
        both = Server([*server(one, in_flight=6).replicas, *server(other, in_flight=6).replicas])
        assert len(list(both.each(range(60), work))) == 60
    texts = [[body["messages"][0]["content"] for body in queueing.bodies] for queueing in (one, other)]
    samples = [{text.split()[0] for text in own} for own in texts]
    assert not samples[0] & samples[1] and sum(map(len, texts)) == 240
    assert min(map(len, samples)) > 15


def test_replicas_get_work_as_fast_as_each_does_it(tmp_path: Path) -> None:
    with (
        QueueingServer(tmp_path / "a", slots=4, delay_s=0.05) as quick,
        QueueingServer(tmp_path / "b", slots=4, delay_s=0.25) as slow,
    ):
        both = Server([*server(quick, in_flight=6).replicas, *server(slow, in_flight=6).replicas])
        assert len(list(both.complete(asks(240)))) == 240
    assert len(quick.bodies) > 1.5 * len(slow.bodies)  # the slow one does not hold up the quick one


def test_requests_beyond_the_limit_of_a_replica_do_not_reduce_that_of_another(tmp_path: Path) -> None:
    with QueueingServer(tmp_path / "a") as one, QueueingServer(tmp_path / "b") as other:
        client = Server([*server(one, in_flight=16).replicas, *server(other, in_flight=16).replicas]).client()
    slow = client._replicas[1]
    assert client.limit == 32 and slow.throttle is not None
    slow.in_flight, slow.throttle.limit = 12, 4  # lowered while twelve were in flight
    assert client.limit == 16 + 12
    slow.in_flight = 3
    assert client.limit == 16 + 4


def test_a_stop_gives_what_is_in_flight_its_grace_and_no_more(tmp_path: Path) -> None:
    pulled: list[int] = []
    finished: list[int] = []

    def source() -> Iterator[int]:
        for number in range(100):
            pulled.append(number)
            yield number

    async def work(client: Client, number: int) -> int:
        for _ in range(1 if number % 2 else 1000):  # every second one takes 20 s
            assert (await client.chat(Request(str(number), (("user", "look"),)))).error is None
        return number

    with QueueingServer(tmp_path / "s", slots=8, delay_s=0.02) as queueing:
        started = time.monotonic()
        for number in server(queueing, in_flight=8).each(source(), work, stopping=lambda: bool(finished), grace_s=1.0):
            finished.append(number)
        assert 0.9 < time.monotonic() - started < 15  # the others would take 20 s
    assert len(pulled) == 8 and set(finished) == {1, 3, 5, 7}


def test_an_error_of_the_work_ends_the_rest_and_is_raised(tmp_path: Path) -> None:
    async def work(client: Client, number: int) -> int:
        await client.chat(Request(str(number), (("user", "look"),)))
        if number == 3:
            raise ZeroDivisionError
        return number

    with QueueingServer(tmp_path / "s") as queueing, pytest.raises(ZeroDivisionError):
        list(server(queueing, in_flight=4).each(range(10**9), work))


def test_an_image_is_encoded_once_for_all_requests_of_its_sample() -> None:
    image = EncodedImage(b"\xff\xd8" * 1000)
    first, again = (Request("a", (("user", f"<image>{text}"),), (image,)).encode() for text in ("one", "two"))
    assert image.base64 in first and image.base64 in again and image.__dict__["base64"] is image.base64
    assert Request("a", (("user", "<image>one"),), (bytes(image),)).encode() == first


def test_half_of_a_character_in_a_reply_is_marked() -> None:
    from diagcot.serving.request import Reply

    choice = {"index": 0, "message": {"content": "half \ud83d of a \U0001f642"}, "finish_reason": "stop"}
    reply = Reply.from_body({"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1}})
    assert reply.texts == ["half \ufffd of a \U0001f642"] and reply.texts[0].encode()
