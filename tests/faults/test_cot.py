"""Chains of thought through kills: of the task that searches and of its model server. Row 25."""

import json
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from diagcot.data.pixels import Jpeg
from diagcot.data.study import Image, Study
from diagcot.jobs import Plan
from diagcot.jobs.execution.worker import work
from diagcot.jobs.state import ledger
from diagcot.serving.server import process
from diagcot.shards.writer import ShardWriter
from tests import chains
from tests.fakes.serving import COMMAND, model_folder, write_script
from tests.faults import runs

SAMPLES, KILLS, WINDOW = 500, 50, 16
SERVER = {"startup_timeout_s": 60, "shutdown_timeout_s": 1, "in_flight": WINDOW, "request_timeout_s": 30}
# Two verdicts in five are true, so most searches take several attempts: 4 to 17 calls a sample.
SCRIPT = {"verdict": 0.4, "delay_s": {"lognormal": [0.008, 0.5]}}


def films(path: Path) -> Path:
    """A shard of studies whose reports differ."""
    path.parent.mkdir(parents=True)
    with ShardWriter(path) as writer:
        for n in range(SAMPLES):
            told = {"findings": f"study {n:04d} shows clear lungs", "impression": f"no acute finding in {n:04d}"}
            image = Image(f"film-{n}", "PA", 8, 8)
            study = Study("test", f"{n:04d}", f"p{n}", "train", images=(image,), **told)  # type: ignore[arg-type]
            writer.add(study, [Jpeg(n.to_bytes(2, "big") * 50, 8, 8, True)])
    return path


def collecting(root: Path, shards: Path) -> Plan:
    inputs = {"shards": [str(shards)], "model": [str(shards)]}
    settings = {"server": SERVER, "samples_per_shard": None}
    more = {
        "kind": "diagcot.cot.search.collect",
        "settings": settings,
        "inputs": inputs,
        "shards_root": str(shards.parent),
    }
    plan = chains.plan(root, "cot", 1, **more)
    chains.write(root, [plan], chains.cluster())
    return plan


def execute(plan: Plan) -> int:
    """The plan's one task in a process of its own, as a job would run it; its process id."""
    sys.stdout.flush()
    if child := os.fork():
        return child
    code = 1
    try:
        start = process.Process.start.__func__  # type: ignore[attr-defined]
        scripted = classmethod(lambda cls, *args, **named: start(cls, *args[:6], COMMAND, **named))
        process.Process.start = scripted  # type: ignore[method-assign, assignment]
        code = 0 if work(plan.path, 0) == "done" else 2
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(child: int) -> int | None:
    """The exit code of a process that has ended, else None."""
    pid, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if pid else None


def server_of(child: int) -> int | None:
    """The model server that a task has started, if it has one now."""
    try:
        tasks = list(Path(f"/proc/{child}/task").iterdir())
        found = {pid for task in tasks for pid in (task / "children").read_text().split()}
        return next((int(pid) for pid in found if b"model_server" in Path(f"/proc/{pid}/cmdline").read_bytes()), None)
    except (FileNotFoundError, ProcessLookupError):
        return None


def finished(plan: Plan) -> Counter[str]:
    """How often each sample was written, over all executions; a torn last line is none."""
    lines = [line for path in (plan.path / "partial").glob("*.jsonl") for line in path.read_bytes().split(b"\n")[:-1]]
    return Counter(line[:40].decode().split('"')[3] for line in lines if line.startswith(b'{"id": "'))


def outcome(plan: Plan) -> tuple[bytes, Any, list[str]]:
    """The product's bytes, and what the ledger says of it."""
    (path,) = [path for path in plan.output.iterdir()]
    row = ledger.manifest(plan.path, "00000") or {}
    # What a server's cache held is told of the last execution alone.
    counts = {name: count for name, count in row["counts"].items() if name not in ("cached_tokens", "told_tokens")}
    return path.read_bytes(), counts, [output["sha256"] for output in row["outputs"].values()]


@pytest.mark.heavy
@pytest.mark.row(
    25,
    promise="no sample is lost and none is completed twice; the traces equal an undisturbed run's, byte for byte",
    injected="50 SIGKILLs at random moments of a search over 500 samples, of the task or of its model server",
    daemons="simulated",
)
def test_row_25_fifty_kills_of_task_and_server_leave_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_script(tmp_path, monkeypatch, **SCRIPT)
    shards = films(tmp_path / "shards" / "shard" / "00000.h5").parent
    model_folder(shards)
    quiet = collecting(tmp_path / "quiet", shards)
    child = execute(quiet)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, runs.log(quiet, 0)

    plan = collecting(tmp_path / "killed", shards)
    dice = random.Random(25)
    killed: list[str] = []
    child, due, who = execute(plan), 3, ""
    end = time.monotonic() + runs.PATIENCE_S
    while (code := ended(child)) is None:
        assert time.monotonic() < end, f"not done after {len(killed)} kills\n{runs.log(plan, 0)}"
        time.sleep(0.005)
        if len(killed) == KILLS or finished(plan).total() < due:
            continue
        # What three servers in a row die of is taken for the cause, as row 26 wants it: the third victim is the task.
        who = who or ("task" if killed[-2:] == ["server"] * 2 else dice.choice(["task", "server"]))
        victim = child if who == "task" else server_of(child)
        if victim is None:  # a server that has not started yet is waited for, so that the seed alone decides
            continue
        time.sleep(dice.uniform(0, 0.03))  # not only when a record was just written
        os.kill(victim, signal.SIGKILL)
        killed.append(who)
        due = finished(plan).total() + dice.randint(
            1, 10
        )  # by then the next server has answered, and is not just starting
        if who == "task":
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
            child = execute(plan)
        who = ""
    assert code == 0, runs.log(plan, 0)
    assert len(killed) == KILLS and min(killed.count("task"), killed.count("server")) >= 15
    assert len(list((plan.path / "out").glob("*.log"))) == killed.count("task") + 1

    once = {row["id"]: 1 for row in map(json.loads, outcome(quiet)[0].splitlines())}
    assert len(once) == SAMPLES and finished(plan) == finished(quiet) == Counter(once)
    assert outcome(plan) == outcome(quiet)
