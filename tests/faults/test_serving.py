"""Rows 25 and 26: a model server that fails in every way, and prompts that fail it."""

import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from diagcot.cot.search import collect
from diagcot.cot.search.sample import select_samples
from diagcot.cot.settings import CollectSettings
from diagcot.jobs import Unit
from diagcot.jobs.execution import place
from diagcot.jobs.testing import context, run_unit
from diagcot.serving import ServerError
from diagcot.serving.client import connection
from diagcot.serving.request import MODEL_NAME
from diagcot.serving.server import process
from diagcot.serving.server.placement import Placement
from diagcot.shards import Shard
from tests.fakes.serving import COMMAND, fake, model_folder, settings, starts, write_script
from tests.integration.serving.test_client import answered, ask
from tests.unit.shards import test_files as test_shards_files

Patch = pytest.MonkeyPatch
TROUBLE: dict[str, dict[str, Any]] = {
    "slow start": {"ready_s": 1.5},
    "dies in the middle": {"die_after": 15},
    "429": {"refuse": {"0003": [429] * 3, "0030": [429]}},
    "5xx": {"refuse": {"0003": [500, 502, 503], "0030": [504]}},
    "all at once": {"ready_s": 0.5, "die_after": 15, "refuse": {"0003": [429, 500], "0031": [503]}, "delay_s": 0.002},
}


@pytest.mark.heavy
@pytest.mark.row(
    25,
    promise="every request is answered once; one restart for one death; unfinished requests are repeated",
    injected="a scripted server that starts late, dies, answers 429 and 5xx, one by one and all at once",
    daemons="simulated",
)
@pytest.mark.parametrize("name", TROUBLE)
def test_row_25_a_server_in_trouble_answers_every_request_in_the_end(
    tmp_path: Path, monkeypatch: Patch, name: str
) -> None:
    script = TROUBLE[name]
    with fake(tmp_path, monkeypatch, **script) as server:
        replies = Counter(key for key, reply in server.complete(ask(40)) if reply.error is None)
        pid = server.process.pid
    assert replies == Counter({str(number): 1 for number in range(40)})
    assert starts(tmp_path) == 1 + ("die_after" in script)
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.heavy
@pytest.mark.row(
    25,
    promise="noticed by the request's deadline and the health check, killed and replaced; nothing is lost",
    injected="SIGSTOP of the server in the middle of a run",
    daemons="simulated",
)
def test_row_25_a_server_that_hangs_is_replaced(tmp_path: Path, monkeypatch: Patch) -> None:
    started = time.monotonic()
    with fake(tmp_path, monkeypatch, {"request_timeout_s": 1}) as server:
        replies: dict[str, Any] = {}
        for key, reply in server.complete(ask(30)):
            if not replies:
                hanging = server.process.pid
                os.kill(hanging, signal.SIGSTOP)
            replies[key] = reply
        assert server.generation == 1 and server.process.pid != hanging
    assert len(answered(replies)) == 30
    assert not Path(f"/proc/{hanging}").exists() and time.monotonic() - started < 20


@pytest.mark.heavy
@pytest.mark.row(
    25,
    promise="noticed within seconds, long before the requests' deadline; the server is replaced and nothing is lost",
    injected="a server whose engine dies while its API process stays: requests hang, /health is 503",
    daemons="simulated",
)
def test_row_25_a_server_whose_engine_died_is_replaced_within_seconds(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(connection, "SILENCE_S", 1.0)
    with fake(tmp_path, monkeypatch, {"request_timeout_s": 600}, engine_dies_after=10) as server:
        started = time.monotonic()
        replies = dict(server.complete(ask(30)))
        assert server.generation == 1
    assert len(answered(replies)) == 30 and time.monotonic() - started < 60


@pytest.mark.heavy
@pytest.mark.row(
    25,
    promise="a server that is slow, and says so on /health, is waited for",
    injected="replies that take three times as long as the silence after which /health is asked",
    daemons="simulated",
)
def test_row_25_a_slow_server_is_not_taken_for_dead(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(connection, "SILENCE_S", 0.3)
    with fake(tmp_path, monkeypatch, {"request_timeout_s": 600}, delay_s=1.0) as server:
        assert len(answered(dict(server.complete(ask(3))))) == 3
        assert server.generation == 0


HOPELESS: dict[str, tuple[dict[str, Any], str]] = {
    "never ready": ({"ready_s": 60}, r"not ready after 2 s \(startup_timeout_s\)"),
    "dies at start": ({"die_at_start": True}, "ended while it was starting: ValueError: the script says so"),
    "asks for a key": ({"models_status": 401}, r"refuses to list its models: HTTP 401"),
    "knows no list": ({"models_status": 404}, r"refuses to list its models: HTTP 404"),
    "wrong model": ({"name": "stranger"}, r"another model \(stranger\) answers on the server's socket"),
}


@pytest.mark.heavy
@pytest.mark.row(
    25,
    promise="a one-sentence error that names cause and log, before the deadline; no process and no socket is left",
    injected="a server that is never ready, dies at start, refuses to answer, or serves another model",
    daemons="simulated",
)
@pytest.mark.parametrize("name", HOPELESS)
def test_row_25_a_hopeless_server_is_an_error_by_its_deadline(tmp_path: Path, monkeypatch: Patch, name: str) -> None:
    script, message = HOPELESS[name]
    patience = 2 if name == "never ready" else 90  # every other one is an answer, which need not be waited for
    place.folder("s").rmdir()  # this process has its place
    before, kept = _children(), sorted(place.folder("s").parent.iterdir())
    started = time.monotonic()
    with pytest.raises(ServerError, match=message) as told:
        with fake(tmp_path, monkeypatch, {"startup_timeout_s": patience}, **script):
            pass
    assert time.monotonic() - started < patience + 8 and str(tmp_path) in str(told.value)
    assert _children() == before and sorted(kept[0].parent.iterdir()) == kept


def _children() -> set[str]:
    tasks = Path(f"/proc/{os.getpid()}/task").iterdir()
    return {child for task in tasks for child in (task / "children").read_text().split()}


@pytest.mark.heavy
@pytest.mark.row(
    25,
    promise="at most `restarts` restarts in a row, each after a longer pause, then an error",
    injected="a server that dies at every request",
    daemons="simulated",
)
def test_row_25_restarts_are_bounded_and_spaced(tmp_path: Path, monkeypatch: Patch) -> None:
    pauses: list[float] = []
    sleep = time.sleep
    with fake(tmp_path, monkeypatch, {"restarts": 2, "in_flight": 1}, die_on="question") as server:
        closed = server.replicas[0]._closed
        monkeypatch.setattr(closed, "wait", lambda s: (pauses.append(s), sleep(min(s, 0.1))))
        started = time.monotonic()
        with pytest.raises(ServerError, match="died 3 times in a row"):
            list(server.complete(ask(3, "question")))
    assert [pause for pause in pauses if pause in (0.0, 1.0, 3.0)] == [0.0, 1.0]
    assert starts(tmp_path) == 3 and time.monotonic() - started < 20


@pytest.mark.row(
    25,
    promise="the server takes over the socket, and only our model is used",
    injected="another process listens on the server's socket already",
    daemons="simulated",
)
def test_row_25_a_socket_that_is_taken(tmp_path: Path, monkeypatch: Patch) -> None:
    write_script(tmp_path, monkeypatch)
    folder = place.folder("s")
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.bind(str(folder / "s"))
        stranger.listen()
        threading.Thread(target=_swallow, args=(stranger,), daemon=True).start()
        server = process.Process.start(
            model_folder(tmp_path), settings(), Placement(), folder, tmp_path / "server.log", command=COMMAND
        )
        assert process.served_model(server.socket) == MODEL_NAME and server.ready_s < 15
        server.stop(0)


def _swallow(listening: socket.socket) -> None:
    """Accept connections and never answer."""
    held = []
    while True:
        try:
            held.append(listening.accept())
        except OSError:
            return


@pytest.mark.heavy
@pytest.mark.row(
    26,
    promise="each is recorded as a failed row with its cause; all other rows are unchanged",
    injected="prompts that are refused as too long, that kill the server, that are never answered, and whose replies end by a"
    " content filter or by abort",
    daemons="simulated",
)
def test_row_26_poison_prompts_are_recorded_and_the_rest_goes_on(tmp_path: Path, monkeypatch: Patch) -> None:
    start = process.Process.start.__func__  # type: ignore[attr-defined]
    scripted = classmethod(lambda cls, *args, **named: start(cls, *args[:6], COMMAND, **named))
    monkeypatch.setattr(process.Process, "start", scripted)
    shards = tmp_path / "shards" / "test" / "shard"
    shards.mkdir(parents=True)
    shard = Shard(test_shards_files.write(shards / "00000.h5", [test_shards_files.made(n) for n in range(3, 45, 3)]))
    model_folder(shards)

    def traces(name: str, **script: Any) -> dict[str, dict[str, Any]]:
        write_script(tmp_path, monkeypatch, **script)
        server = {"startup_timeout_s": 20, "shutdown_timeout_s": 1, "in_flight": 4, "request_timeout_s": 2}
        inputs = {"shards": [str(shards)], "model": [str(shards)]}
        ctx = context(tmp_path, {"server": server}, stage=name, inputs=inputs)
        result = run_unit(collect, Unit("00000"), ctx)
        rows = [json.loads(line) for line in (ctx.output / "00000.jsonl").read_text().splitlines()]
        assert result is not None and result.counts["failed"] == sum(row["error"] is not None for row in rows)
        return {row["id"]: row for row in rows}

    good = traces("good")
    samples = select_samples(shard, tmp_path / "shards", CollectSettings())
    long, deadly, silent, filtered, aborted = samples[:5]
    refused = {long.reference_report: [400] * 99}
    script = {"refuse": refused, "die_on": deadly.reference_report, "hang_on": silent.reference_report}
    ends = {filtered.reference_report: ["content_filter"] * 99, aborted.reference_report: ["abort"] * 99}
    found = traces("poisoned", finish=ends, **script)
    assert len(good) == len(found) == len(samples) > 8
    assert found.keys() == good.keys() and all(row["error"] is None for row in good.values())
    assert {key: row["error"] for key, row in found.items() if row["error"]} == {
        long.id: "init: HTTP 400: refused by script",
        deadly.id: "init: the server died at each of 3 tries",
        silent.id: "init: no reply in 2 s at each of 3 tries",
        filtered.id: "init: the server's reply is not whole: it ended by content_filter",
        aborted.id: "init: the server's reply is not whole: it ended by abort",
    }
    assert all(found[key] == good[key] for key in found if not found[key]["error"])
