"""Rewards that loop, die or are slow: what that costs and what is said of it. Real processes, no Ray and no servers."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from diagcot.jobs import OwnCodeError, UserError
from diagcot.jobs.testing import context
from diagcot.rewards.score import Reference
from diagcot.serving import Reply, Request
from diagcot.training.config.reward_settings import RewardModelsSettings, RewardSettings
from diagcot.training.reward_models.child import LateError, RewardChild
from diagcot.training.reward_models.plain import Output
from diagcot.training.reward_models.worker import RewardWorker, Scored
from diagcot.training.rl import rollout_pool
from diagcot.training.rl.rollout_pool import RolloutPool

REWARD = """
import os, re, signal
from pathlib import Path

def reward(prompts, completions, **columns):
    print("rewards of other projects print")
    for text in completions:
        if text == "loop":
            re.match(r"(a+)+$", "a" * 60 + "b")  # inside one call of C that holds the interpreter's lock
        if text == "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                try:
                    re.match(r"(a+)+$", "a" * 60 + "b")
                except BaseException:
                    pass
        if text == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if text == "leave":
            os._exit(3)
        if text == "once" and not Path(__file__).with_name("died").exists():
            Path(__file__).with_name("died").touch()
            os._exit(1)
        if text == "raise":
            raise ValueError("no such answer")
    return [len(text) / 10 for text in completions]
"""
REFERENCE = Reference("a report")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "reward.py"
    path.write_text(REWARD)
    return path


@pytest.fixture
def worker(file: Path) -> Iterator[RewardWorker]:
    reward = RewardSettings(name=f"{file}:reward", style="trl", score_timeout_s=1.0)
    made = RewardWorker({"": reward}, {"": [REFERENCE]}, RewardModelsSettings(), {})
    yield made
    made._plain.close()


def outputs(*texts: str) -> list[Output]:
    return [Output(text, REFERENCE, sample=f"study/{number}") for number, text in enumerate(texts)]


def test_a_rollout_on_which_the_reward_loops_costs_itself_alone_and_is_named(worker: RewardWorker, file: Path) -> None:
    assert worker.ready()
    began = time.monotonic()
    scored = worker.score(outputs("ab", "loop", "abcd", "deaf"), 0.0)
    assert [score["overall"] for score in scored.scores] == [0.2, 0.0, 0.4, 0.0]
    assert scored.late == [("study/1", f"{file}:reward"), ("study/3", f"{file}:reward")]
    assert time.monotonic() - began < 300  # three deadlines of a second, and starts on a busy machine
    again = worker.score(outputs("ab"), 0.0)
    assert [score["overall"] for score in again.scores] == [0.2] and again.late == []


def test_a_rollout_that_ends_the_reward_is_told_with_its_sample_and_what_to_do(
    worker: RewardWorker, file: Path
) -> None:
    for text, how in (("die", "signal SIGKILL"), ("leave", "exit code 3")):
        with pytest.raises(
            RuntimeError, match=rf"reward {file}:reward died \({how}\) .* sample study/1\. Mend the reward"
        ):
            worker.score(outputs("ab", text), 0.0)
    scored = worker.score(outputs("ab", "once", "abc"), 0.0)  # it comes back and scores all
    assert [score["overall"] for score in scored.scores] == [0.2, 0.4, 0.3] and scored.late == []


def test_what_a_reward_raises_is_raised_by_the_worker(worker: RewardWorker) -> None:
    with pytest.raises(OwnCodeError, match=r"raised ValueError, .*reward\.py:\d+: fix it") as told:
        worker.score(outputs("raise"), 0.0)
    assert "in the process of the reward" in told.value.__notes__[0]


def test_a_reward_that_cannot_be_loaded_is_told_each_time(tmp_path: Path) -> None:
    (tmp_path / "reward.py").write_text("raise ValueError('not today')")
    made = RewardChild({"": RewardSettings(name=f"{tmp_path}/reward.py:reward", style="trl")}, {"": [REFERENCE]})
    for _ in range(2):
        with pytest.raises(UserError, match=r"cannot be loaded .ValueError, "):
            made.start()


def test_a_late_reward_of_this_project_has_all_terms_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate needs the terms of every score, and a component the name of its own."""
    table = {
        "": RewardSettings(name="closed"),
        "report": RewardSettings(name="report", components={"plain": 0.5, "format": 0.5}),
    }
    made = RewardWorker(table, {key: [REFERENCE] for key in table}, RewardModelsSettings(), {})

    def none(*_: Any) -> Any:
        raise LateError("no answer in 1 s")

    monkeypatch.setattr(RewardChild, "score", none)
    scored = made.score([Output("x", REFERENCE, ""), Output("x", REFERENCE, "report", sample="s")], 0.0)
    assert scored.scores[0] == {"overall": 0.0, "accuracy": 0.0, "process": 0.0, "reason": 0.0}
    assert scored.scores[1]["overall"] == 0 == scored.scores[1]["format"] and ("s", "report/clinical") in scored.late


def test_no_child_outlives_its_worker(file: Path) -> None:
    made = RewardChild({"": RewardSettings(name=f"{file}:reward", style="trl")}, {"": [REFERENCE]})
    made.start()
    process = made._process
    assert process.poll() is None
    del made
    assert process.poll() is not None


class Call:
    """A reference of Ray's: what a call answers, or None while it has not."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer


class ActorError(Exception):
    """Stands for Ray's."""


def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worker: Any, limit_s: float = 0.2) -> Any:
    """A pool whose servers answer at once, over a Ray that is only its functions. worker: what its calls answer."""

    def wait(waiting: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        ready = [one for one in waiting if isinstance(one, Stream) or one.answer is not None][:1]
        if not ready:
            time.sleep(0.01)
        return ready, []

    def get(found: Any) -> Any:
        answer = found.answer
        if isinstance(answer, Exception):
            raise answer
        return answer

    ray = SimpleNamespace(
        wait=wait, get=get, ObjectRefGenerator=Stream, exceptions=SimpleNamespace(RayActorError=ActorError)
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    made: Any = object.__new__(RolloutPool)
    made._ctx, made._closed, made._head = context(tmp_path), False, SimpleNamespace(check=lambda: None)
    made._settings = SimpleNamespace(step_timeout_s=limit_s, max_staleness=0)
    generate = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda requests: Stream(requests)))
    made.servers, made.workers = (
        [SimpleNamespace(generate=generate)],
        [SimpleNamespace(score=SimpleNamespace(remote=lambda *_: Call(worker)))],
    )
    return made


class Stream:
    """Replies to requests, as a stream of Ray's."""

    def __init__(self, requests: Any) -> None:
        self._left = [Call((request.id, Reply(texts=["x"]))) for request in requests]

    def __next__(self) -> Any:
        if not self._left:
            raise StopIteration
        return self._left.pop(0)


REQUESTS = [Request(str(number), (("user", "look"),)) for number in range(2)]


def roll_out(made: Any) -> Any:
    return made.roll_out(REQUESTS, lambda index, reply: [Output("x", REFERENCE, sample=f"study/{index}")], 0.0)


def test_late_scores_are_counted_and_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = pool(tmp_path, monkeypatch, Scored([{"overall": 0.0}], {}, [("study/0", "report/clinical")]))
    events: list[Any] = []
    monkeypatch.setattr(type(made._ctx), "event", lambda ctx, name, **fields: events.append((name, fields)))
    batch = roll_out(made)
    assert batch.late == 2
    assert events == [("score_late", {"sample": "study/0", "reward": "report/clinical"})] * 2


def test_a_dead_reward_worker_is_told_as_one_and_a_slow_one_as_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError, match=r"a reward worker died.*fewer `reward\.workers`.*resumes.*\(killed\)"):
        roll_out(pool(tmp_path, monkeypatch, ActorError("The actor died.\nkilled")))
    with pytest.raises(
        TimeoutError, match=r"reward workers are slow.*2 prompts.*samples study/0, study/1.*score_timeout_s"
    ):
        roll_out(pool(tmp_path, monkeypatch, None))
    made = pool(tmp_path, monkeypatch, None)
    dead_server = [Call(ActorError("killed"))]
    with pytest.raises(RuntimeError, match=r"a rollout server died.*server\.\*\.log"):
        made._all(dead_server, 1.0)
    with pytest.raises(RuntimeError, match=r"a reward worker died"):
        made._all(dead_server, 1.0, rollout_pool.REWARD_WORKER)
    with pytest.raises(TimeoutError, match="1 reward workers had not loaded"):
        made._all([Call(None)], 0.05, rollout_pool.REWARD_WORKER)


def test_nothing_of_the_parent_is_left_open_in_the_child(worker: RewardWorker) -> None:
    """The child sees the end of its worker: its own side of the sockets is all that it inherits."""
    worker.ready()
    names = {str(path.readlink()) for path in Path(f"/proc/{worker._plain._process.pid}/fd").iterdir()}
    assert len([name for name in names if name.startswith("socket:")]) == 1
