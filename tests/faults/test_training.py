"""Rows 28 and 29: checkpoints that are not whole, and ranks that do not meet."""

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from diagcot.jobs import Plan
from diagcot.jobs.cluster import Size
from diagcot.jobs.execution.ranks import from_environment
from diagcot.jobs.testing import context
from diagcot.training.checkpoint.checkpoint import Checkpoints
from tests import chains
from tests.faults.conftest import Mount
from tests.faults.scenarios import checkpoints as scenario
from tests.faults.test_publishing import disturb


@pytest.fixture
def alone() -> Iterator[None]:
    scenario.alone()
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture
def checkpoints(tmp_path: Path, alone: None) -> Path:
    """A workspace with the checkpoints of steps 1, 2 and 3, written by the code under test."""
    engine: Any = scenario.Engine()
    with Checkpoints(scenario.at(tmp_path / "workspace"), engine, scenario.ORIGIN, keep=3) as made:
        for step in (1, 2, 3):
            engine.weights.fill_(step)
            made.save(step, {"epoch": step})
    return tmp_path / "workspace"


@pytest.mark.heavy
@pytest.mark.row(
    28,
    promise="the newest complete checkpoint is chosen, and loads; the skipped one is reported with the reason",
    injected="every file of the newest one removed, cut at every tenth of its length, one bit of it flipped",
    daemons="simulated",
)
def test_row_28_a_damaged_checkpoint_gives_way_to_the_one_before(checkpoints: Path) -> None:
    load = scenario.load
    assert load(checkpoints) == (3, 3.0)
    newest = checkpoints / "checkpoints" / "step-00000003"
    files = [path.relative_to(newest) for path in sorted(newest.rglob("*")) if path.is_file()]
    assert len(files) == 4  # two of the engine, the random state, the mark
    kept = shutil.copytree(newest, checkpoints / "kept")
    cases = 0
    for name in files:
        whole = (newest / name).read_bytes()
        size = len(whole)
        cut = [whole[:length] for length in (*(size * tenth // 10 for tenth in range(10)), size - 1)]
        flipped = [
            whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :] for at in range(0, size, max(1, size // 9))
        ]
        for content in [None, *cut, *flipped]:
            cases += 1
            if content is None:
                (newest / name).unlink()
            else:
                (newest / name).write_bytes(content)
            assert load(checkpoints) == (2, 2.0), (name, content)
            shutil.rmtree(newest)
            shutil.copytree(kept, newest)
    assert load(checkpoints) == (3, 3.0)
    told = [row for row in _events(checkpoints) if row["event"] == "checkpoint_passed_over"]
    assert len(told) == cases and {row["checkpoint"] for row in told} == {newest.name}
    assert {row["why"].partition(": ")[2] or row["why"] for row in told} == {
        "it is not whole",
        "other bytes than were written",
    }


def _events(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in root.rglob("events.jsonl") for line in path.read_text().splitlines()]


@pytest.mark.heavy
@pytest.mark.row(
    4,
    promise="a checkpoint that does not fit is reported and leaves nothing; the one before stays intact, training"
    " continues, and the next one is written once there is space again",
    injected="tmpfs filled by fallocate while training continues",
    daemons="real",
)
def test_row_04_a_checkpoint_that_does_not_fit_costs_itself_alone(tmp_path: Path, alone: None, disk: Mount) -> None:
    place = disk(size="2m")
    ctx = context(tmp_path, workspace=place / "work")
    engine: Any = scenario.Engine(size=50_000)  # 400 kB a checkpoint
    with Checkpoints(ctx, engine, scenario.ORIGIN, keep=1) as made:
        for step in (1, 2, 3, 4):
            free = shutil.disk_usage(place).free
            if step in (2, 3):
                subprocess.run(
                    ["fallocate", "-l", str(free - (300_000 if step == 2 else 0)), place / "full"], check=True
                )
            made.save(step, {"epoch": step})
            made.wait()
            steps = [path.name for path in (place / "work" / "checkpoints").iterdir()]
            assert steps == ["step-00000004" if step == 4 else "step-00000001"]
            (place / "full").unlink(missing_ok=True)
    told = [(row["event"], row["step"]) for row in _events(tmp_path)]
    assert told == [("checkpoint", 1), ("checkpoint_failed", 2), ("checkpoint_failed", 3), ("checkpoint", 4)]
    assert all("No space left" in row["why"] for row in _events(tmp_path) if row["event"] == "checkpoint_failed")
    assert scenario.load(place / "work")[0] == 4


@pytest.mark.heavy
@pytest.mark.row(
    28,
    promise="there is always a whole checkpoint to go on from, and training ends with the same ones",
    injected="SIGKILL before every file operation of two checkpoints of which one is kept",
    daemons="simulated",
)
def test_row_28_killed_while_it_writes_or_drops_a_checkpoint(tmp_path: Path) -> None:
    found = disturb("checkpoints", tmp_path / "points", "kill")
    assert len(found) > 25 and {row["code"] for row in found} == {-9}
    assert [row for row in found if not row["same"] or row["resumed"]] == []
    (kept,) = (tmp_path / "points" / "undisturbed" / "checkpoints").iterdir()
    assert kept.name == "step-00000002"


def together(root: Path, **settings: Any) -> tuple[Plan, list[dict[str, Any]], float]:
    """Two ranks of the kind `meet` under the laptop's runner; the plan, what failed, and the seconds it took."""
    plan = chains.plan(
        root, "meet", 1, kind="tests.kinds.meet", resources=Size(tasks_per_node=2), settings={"meet_s": 30} | settings
    )
    run_dir = chains.write(root, [plan], chains.cluster())
    started = time.monotonic()
    command = [sys.executable, "-m", "diagcot.jobs.execution.local", str(run_dir)]
    done = subprocess.run(command, cwd=chains.ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(path.read_text()) for path in (plan.path / "failed").glob("*.json")]
    assert (plan.output / "00000.txt").read_text() == "3.0\n"  # 1 + 2 over the ranks
    assert _alive(str(plan.path)) == []
    return plan, rows, time.monotonic() - started


def _alive(word: str) -> list[str]:
    """Processes that have a word in their command line: ranks that nobody has ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if word in line:
            found.append(line)
    return found


@pytest.mark.heavy
@pytest.mark.row(
    29,
    promise="all ranks of the attempt are ended, and the next one meets on another port",
    injected="another process listens on the port of the first attempt",
    daemons="real",
)
def test_row_29_a_port_that_is_taken_costs_one_attempt(tmp_path: Path) -> None:
    ranks = {"JOB_ID": "1", "NTASKS": "2", "GLOBALID": "0", "LOCALID": "0"}
    env = {f"SUBMITIT_LOCAL_{name}": value for name, value in ranks.items()}
    task = f"{chains.plan(tmp_path, 'meet', 1).path}/00000"
    first = replace(from_environment(env | {"DIAGCOT_ATTEMPT": "1.1"}), task=task)
    with socket.create_server(("127.0.0.1", first.master_port)):
        plan, failed, seconds = together(tmp_path)
    assert [(row["rank"], row["for_user"]) for row in failed] == [(0, False)]
    assert "another process has that port" in failed[0]["message"]
    assert len({row["attempt"] for row in failed}) == 1 and seconds < 60  # less than the other rank's patience twice
    assert len({path.name.split("-")[0] for path in (plan.path / "out").glob("*.log")}) == 2


@pytest.mark.heavy
@pytest.mark.row(
    29,
    promise="the others wait for it",
    injected="one rank starts to meet 3 s late",
    daemons="real",
)
def test_row_29_a_late_rank_is_waited_for(tmp_path: Path) -> None:
    _, failed, _ = together(tmp_path, late_s=3)
    assert failed == []


@pytest.mark.heavy
@pytest.mark.row(
    29,
    promise="the others wait until their deadline and say who is missing; then all are ended, and the task runs again",
    injected="SIGKILL of one rank before it meets",
    daemons="real",
)
def test_row_29_a_rank_that_never_comes_is_waited_for_until_a_deadline(tmp_path: Path) -> None:
    _, failed, seconds = together(tmp_path, die=True, meet_s=8)
    assert [row["rank"] for row in failed] == [0]
    assert "rank 1 of 2 did not come" in failed[0]["message"] and "within 8 s" in failed[0]["message"]
    assert seconds < 60
