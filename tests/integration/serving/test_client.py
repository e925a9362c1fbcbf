"""The server and its client against a server that fails by script."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from diagcot.jobs import UserError
from diagcot.jobs.testing import context
from diagcot.serving import Reply, Request, ServerError, serve
from diagcot.serving.server import owner, process, warm
from diagcot.serving.server.replica import Replica
from tests.fakes.serving import COMMAND, fake, model_folder, prompts_seen, settings, starts, write_script


def ask(count: int, name: str = "question") -> Iterator[Request]:
    for number in range(count):
        yield Request(id=str(number), messages=(("user", f"{name} {number:04d}"),))


def answered(replies: dict[str, Reply]) -> set[str]:
    return {key for key, reply in replies.items() if reply.error is None}


def test_many_requests_are_answered_once_and_within_the_window(tmp_path, monkeypatch):
    read = []

    def source() -> Iterator[Request]:
        for request in ask(200):
            read.append(request.id)
            yield request

    with fake(tmp_path, monkeypatch, delay_s=0.002) as server:
        got = []
        for request_id, reply in server.complete(source()):
            assert reply.error is None
            got.append(request_id)
            assert len(read) - len(got) <= 8  # the source is read no faster than the server answers
        with process.connect(server.process.socket, 5) as http:
            assert 2 <= http.get("/stats").json()["most"] <= 8
    assert sorted(got) == sorted(read) and len(got) == 200
    assert not server.process.alive() and not server.process.folder.exists()


def test_too_many_requests_and_errors_are_retried(tmp_path, monkeypatch):
    refuse = {"0003": [429, 503], "0004": [500]}
    with fake(tmp_path, monkeypatch, refuse=refuse) as server:
        replies = dict(server.complete(ask(6)))
    assert len(answered(replies)) == 6
    assert len(prompts_seen(tmp_path)) == 6 + 3


def test_a_request_refused_for_ever_is_given_up_and_the_rest_goes_on(tmp_path, monkeypatch):
    with fake(tmp_path, monkeypatch, {"retries": 1}, refuse={"0003": [503] * 9, "0002": [400]}) as server:
        replies = dict(server.complete(ask(6)))
    assert answered(replies) == {"0", "1", "4", "5"}
    assert replies["3"].error == "HTTP 503 at each of 2 tries: refused by script"
    assert replies["2"].error == "HTTP 400: refused by script"  # a fault of the request: not tried again


def test_a_server_that_dies_is_started_again_and_nothing_is_lost(tmp_path, monkeypatch):
    with fake(tmp_path, monkeypatch, die_after=20) as server:
        replies = dict(server.complete(ask(60)))
        assert server.generation == 1
    assert len(replies) == len(answered(replies)) == 60
    assert starts(tmp_path) == 2
    logs = list((tmp_path / "models/test/.work/stage").glob("server.*.log"))
    assert len(logs) == 2  # one of each process


def test_one_replica_dies_for_good_and_the_other_takes_its_work(tmp_path, monkeypatch):
    with fake(tmp_path, monkeypatch, {"data_parallel": 2, "restarts": 0}, delay_s=0.005) as server:
        first, second = (replica.process for replica in server.replicas if isinstance(replica, Replica))
        replies: dict[str, Reply] = {}
        for request_id, reply in server.complete(ask(120)):
            if len(replies) == 30:
                os.killpg(first.pid, signal.SIGKILL)
            replies[request_id] = reply
        assert len(answered(replies)) == 120
        with process.connect(second.socket, 5) as http:
            assert 60 < http.get("/stats").json()["answered"] < 115  # the rest was the first one's
    assert starts(tmp_path) == 2 and not second.alive()
    names = sorted(path.name for path in (tmp_path / "models/test/.work/stage").glob("server.*.log"))
    assert [name.split(".")[2:] for name in names] == [["0", "0", "log"], ["1", "0", "log"]]


def test_two_models_of_a_task_have_servers_of_their_own(tmp_path, monkeypatch):
    write_script(tmp_path, monkeypatch)
    monkeypatch.setenv("DIAGCOT_STANDBY", str(tmp_path / "s"))
    folder, ctx = model_folder(tmp_path), context(tmp_path)
    try:
        with serve(folder, settings(), ctx, share=(0, 2), command=COMMAND) as teacher:
            with serve(folder, settings(), ctx, share=(1, 2), command=COMMAND) as judge:
                assert teacher.process.pid != judge.process.pid

                async def work(client, number):
                    async with judge.client() as second:  # in the loop of the first
                        own = await client.chat(Request(str(number), (("user", "teach"),)))
                        return own, await second.chat(Request(str(number), (("user", "judge"),)))

                pairs = list(teacher.each(range(5), work))
        assert ctx.startup_s > 0
    finally:
        warm.stop(tmp_path / "s")
    assert len(pairs) == 5 and not [reply.error for pair in pairs for reply in pair if reply.error]


def test_a_request_that_kills_servers_is_found_and_recorded(tmp_path, monkeypatch):
    with fake(tmp_path, monkeypatch, die_on="0005") as server:
        replies = dict(server.complete(ask(30)))
    assert set(replies) - answered(replies) == {"5"}
    assert replies["5"].error == "the server died at each of 3 tries"
    assert starts(tmp_path) == 4


def test_a_hanging_request_is_given_up_at_its_deadline(tmp_path, monkeypatch):
    with fake(tmp_path, monkeypatch, {"request_timeout_s": 0.5}, hang_on="0002") as server:
        replies = dict(server.complete(ask(6)))
        assert server.generation == 0  # the server itself answers: it is not restarted
    assert set(replies) - answered(replies) == {"2"}
    assert "no reply" in (replies["2"].error or "")


def test_half_replies_and_replies_that_are_no_json(tmp_path, monkeypatch):
    with fake(tmp_path, monkeypatch, {"retries": 1}, cut_on="0001", garble_on="0002") as server:
        replies = dict(server.complete(ask(4)))
    assert answered(replies) == {"0", "3"}
    assert "not a completion" in (replies["2"].error or "")


@pytest.mark.parametrize("n", [1, 3])
def test_a_reply_that_ended_for_another_reason_is_asked_for_again_or_is_an_error(tmp_path, monkeypatch, n):
    passing = {"0001": ["abort"], "0002": ["error", None, "abort"]}
    lasting = {"0003": ["content_filter"], "0004": ["tool_calls"], "0005": ["repetition"], "0006": ["abort"] * 9}
    with fake(tmp_path, monkeypatch, {"retries": 3}, finish=passing | lasting | {"0007": ["length"]}) as server:
        requests = [replace(request, n=n) for request in ask(8)]
        replies = dict(server.complete(requests))
    assert answered(replies) == {"0", "1", "2", "7"}
    assert all(len(replies[name].texts) == n and "see" in replies[name].texts[-1] for name in "012")
    assert replies["7"].finish_reasons[-1] == "length"
    reasons = {name: (replies[name].error or "").rpartition(" ")[2] for name in "3456"}
    assert reasons == {"3": "content_filter", "4": "tool_calls", "5": "repetition", "6": "abort"}
    assert all(not replies[name].texts for name in "3456")
    asked = Counter(line.split()[1] for line in prompts_seen(tmp_path))
    assert asked == {"0000": 1, "0001": 2, "0002": 4, "0003": 1, "0004": 1, "0005": 1, "0006": 4, "0007": 1}


def test_a_reply_with_too_few_texts_is_no_reply():
    choice = {"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}
    body = {"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
    assert Reply.from_body(body).fault(1) is None
    assert Reply.from_body(body).fault(2) == "it holds 1 of 2 texts"


def test_the_request_to_stop_drains_what_is_in_flight(tmp_path, monkeypatch):
    got: list[str] = []
    with fake(tmp_path, monkeypatch, delay_s=0.01) as server:
        for request_id, reply in server.complete(ask(100), stopping=lambda: len(got) >= 5):
            assert reply.error is None
            got.append(request_id)
    assert 5 <= len(got) <= 5 + 8
    assert len(prompts_seen(tmp_path)) == len(got)


def test_a_server_that_never_stays_up_is_an_error_that_names_its_log(tmp_path, monkeypatch):
    with pytest.raises(
        ServerError, match=r"ended while it was starting: ValueError: the script says so \(log: .*\.log\)"
    ):
        with fake(tmp_path, monkeypatch, die_at_start=True):
            pass


def test_a_server_that_is_never_ready_is_ended_at_its_deadline(tmp_path, monkeypatch):
    started = time.monotonic()
    with pytest.raises(ServerError, match="not ready after 1 s"):
        with fake(tmp_path, monkeypatch, {"startup_timeout_s": 1}, ready_s=60):
            pass
    assert time.monotonic() - started < 10


def test_another_model_behind_the_socket_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ServerError, match="another model"):
        with fake(tmp_path, monkeypatch, name="stranger"):
            pass


def test_restarts_are_bounded(tmp_path, monkeypatch):
    write_script(tmp_path, monkeypatch)
    with fake(tmp_path, monkeypatch, {"restarts": 1}) as server:
        write_script(tmp_path, monkeypatch, die_at_start=True)
        os.killpg(server.process.pid, signal.SIGKILL)
        with pytest.raises(ServerError, match="died 2 times in a row"):
            list(server.complete(ask(2)))


def test_a_folder_that_is_no_model_says_so(tmp_path):
    with pytest.raises(UserError, match="not a model folder"):
        with serve(tmp_path, settings(), context(tmp_path), command=COMMAND):
            pass


def test_the_socket_is_private_and_the_log_too(tmp_path, monkeypatch):
    with fake(tmp_path, monkeypatch) as server:
        assert server.process.folder.stat().st_mode & 0o777 == 0o700
        assert server.process.log.stat().st_mode & 0o777 == 0o600
        assert len(str(server.process.socket)) < 108


def test_the_server_ends_when_its_owner_is_killed(tmp_path, monkeypatch):
    write_script(tmp_path, monkeypatch)
    parent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    code = (
        "import sys, time, threading; from diagcot.serving.server.owner import follow_owner\n"
        "threading.Thread(target=follow_owner, args=(sys.argv[1], 0.1), daemon=True).start(); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, owner.process_identity(parent.pid)], start_new_session=True)
    time.sleep(0.5)
    assert child.poll() is None
    parent.kill()
    parent.wait()
    assert child.wait(10) == -signal.SIGTERM


def test_the_wire_form_places_images(tmp_path):
    request = Request(
        "a", (("system", "s"), ("user", "<image>one <image>two")), (b"x", b"y"), schema={"type": "object"}, logprobs=2
    )
    body = request.body()
    kinds = [part["type"] for part in body["messages"][1]["content"]]
    assert kinds == ["image_url", "text", "image_url", "text"]
    assert body["messages"][0]["content"] == "s" and body["structured_outputs"] == {"json": {"type": "object"}}
    loose = Request("a", (("user", "look"),), (b"x",)).body()["messages"][0]["content"]
    assert [part["type"] for part in loose] == ["image_url", "text"]
    with pytest.raises(ValueError, match="1 <image> placeholders but the request has 0 images"):
        Request("a", (("user", "<image>"),)).body()


def test_a_request_that_cannot_be_written_is_an_error_reply(tmp_path, monkeypatch):
    with fake(tmp_path, monkeypatch) as server:
        replies = dict(server.complete([Request("a", (("user", "<image>"),)), *ask(1)]))
    assert re.search("0 images", replies["a"].error or "") and replies["0"].error is None


def test_warm_servers_are_shared_and_stopped(tmp_path, monkeypatch):
    write_script(tmp_path, monkeypatch)
    monkeypatch.setenv(warm.FOLDER, str(tmp_path / "s"))
    pids = []
    for _ in range(2):
        with serve(model_folder(tmp_path), settings(), context(tmp_path), command=COMMAND) as server:
            pids.append(server.process.pid)
            assert len(answered(dict(server.complete(ask(3))))) == 3
    assert starts(tmp_path) == 2 and pids[0] != pids[1]  # the fake cannot exchange weights: it is restarted in place
    assert warm.stop(Path(tmp_path / "s")) == 1
    assert warm.stop(Path(tmp_path / "s")) == 0
    shutil.rmtree(tmp_path / "s")  # as a run's place at its end: the logs of its warm servers are elsewhere
    logs = list((tmp_path / "models/test/.work/servers").glob("server.*.log"))
    assert logs and all(log.stat().st_mode & 0o077 == 0 for log in logs)
