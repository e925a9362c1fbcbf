"""The laptop's runner: a chain to its end, element-wise edges, failures, Ctrl-C and continuation."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from diagcot.console.state.headline import headline_costs
from diagcot.console.state.status import snapshot
from diagcot.jobs.cluster import Size
from diagcot.jobs.execution import local
from diagcot.jobs.plans.plan import Headline
from diagcot.jobs.state import runner
from diagcot.jobs.state.executions import gpu_hours, logs_of
from tests import chains
from tests.chains import Edge


def run(run_dir: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "diagcot.jobs.execution.local", str(run_dir)]
    return subprocess.run(command, cwd=chains.ROOT, capture_output=True, text=True, timeout=60)


def test_a_chain_runs_to_its_end(tmp_path: Path) -> None:
    first = chains.plan(tmp_path, "first", 2)
    second = chains.plan(tmp_path, "second", 2, after=(Edge("first", elementwise=True),))
    slow = {"startup": 0.4, "late_startup": 0.3, "seconds": 0.2}
    third = chains.plan(tmp_path, "third", 1, after=(Edge("second"),), settings=slow)
    run_dir = chains.write(tmp_path, [first, second, third], chains.cluster())
    done = run(run_dir)
    assert done.returncode == 0, done.stderr
    for plan in (first, second, third):
        assert not plan.missing()
        assert json.loads((plan.path / "summary.json").read_text())["state"] == "done"
    assert (tmp_path / "out" / "second" / "00001.txt").read_text().startswith("00001-0000 0\n")
    ended = json.loads((first.path / "summary.json").read_text())["ended"]
    summary = json.loads((third.path / "summary.json").read_text())
    assert ended <= summary["started"]
    assert 0.7 <= summary["startup_seconds"] <= summary["seconds"] - 0.6  # three records of 0.2 s
    assert summary["ended"] - summary["started"] >= 1.3
    late = [sys.executable, "-m", "diagcot.jobs.execution.worker", str(first.path), "0"]
    subprocess.run(late, cwd=chains.ROOT, check=True, timeout=60)  # as a job that Slurm requeued before the stage ended
    assert not first.workspace.exists()


def test_the_price_of_a_thousand_is_in_the_summary_failed_attempts_and_the_stage_before_included(
    tmp_path: Path,
) -> None:
    size, failing = Size(gpus=2, minutes=5), {"fail_once": "00001", "startup": 0.4, "seconds": 0.1}
    first = chains.plan(tmp_path, "first", 2, settings=failing, resources=size)
    teacher = chains.plan(tmp_path, "teacher", 1, settings={"startup": 0.4}, resources=size)
    after = (Edge("first"), Edge("teacher"))
    second = chains.plan(tmp_path, "second", 1, after=after, resources=size, headline=Headline("records", ("first",)))
    on_cpu = chains.plan(tmp_path, "third", 1, after=(Edge("second"),), headline=Headline("records"))
    run_dir = chains.write(tmp_path, [first, teacher, second, on_cpu], chains.cluster())
    assert run(run_dir).returncode == 0
    summary = json.loads((second.path / "summary.json").read_text())
    assert summary["counts"] == {"records": 3}
    hours = {plan.stage: gpu_hours(plan.path, 2, logs_of(plan.path)) for plan in (first, teacher, second)}
    assert hours["first"] > 2 * 2 * 0.4 / 3600  # started twice
    assert summary["gpu_hours_per_1000_records"] == pytest.approx(1000 * (hours["first"] + hours["second"]) / 3)
    (shown,) = (one for one in headline_costs(snapshot(run_dir)) if one.per_thousand)
    assert shown.per_thousand == pytest.approx(summary["gpu_hours_per_1000_records"])
    assert not [
        name for name in json.loads((on_cpu.path / "summary.json").read_text()) if name.startswith("gpu_hours_per")
    ]


def test_a_failure_stops_what_follows_and_is_shown(tmp_path: Path) -> None:
    first = chains.plan(tmp_path, "first", 2, settings={"fail": "00001"})
    second = chains.plan(tmp_path, "second", 1, after=(Edge("first"),))
    run_dir = chains.write(tmp_path, [first, second], chains.cluster())
    assert run(run_dir).returncode == 1
    assert first.missing() == ["00001"] and second.missing() == ["00000"]
    failed = [json.loads(p.read_text()) for p in (first.path / "failed").glob("*.json")]
    assert len(failed) == 2 and failed[0]["message"] == "asked to fail at 00001"  # tried twice, then stopped
    assert json.loads((run_dir / "runner.json").read_text())["failed"] == ["first"]


def test_stopped_anywhere_it_goes_on_with_the_same_result(tmp_path: Path) -> None:
    first = chains.plan(tmp_path, "first", 1, settings={"records": 40, "seconds": 0.05})
    run_dir = chains.write(tmp_path, [first], chains.cluster())
    command = [sys.executable, "-m", "diagcot.jobs.execution.local", str(run_dir)]
    process = subprocess.Popen(command, cwd=chains.ROOT, start_new_session=True)
    deadline = time.monotonic() + 20
    while not list((first.path / "partial").glob("*.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 3
    kept = sum(len(p.read_text().splitlines()) for p in (first.path / "partial").glob("*.jsonl"))
    assert 0 < kept < 40
    assert run(run_dir).returncode == 0
    assert len((tmp_path / "out" / "first" / "00000.txt").read_text().splitlines()) == 40
    assert len(list((first.path / "out").glob("*.log"))) == 2  # a log for each attempt


def test_a_rank_that_fails_ends_those_that_wait_for_it(tmp_path: Path) -> None:
    size = Size(tasks_per_node=2)
    plan = chains.plan(tmp_path, "train", 1, resources=size, settings={"fail_rank": 1})
    run_dir = chains.write(tmp_path, [plan], chains.cluster())
    started = time.monotonic()
    assert run(run_dir).returncode == 1
    assert time.monotonic() - started < 40  # two attempts; rank 0 alone would have slept for a minute in each
    assert {json.loads(p.read_text())["rank"] for p in (plan.path / "failed").glob("*.json")} == {1}


def test_an_error_for_the_user_on_any_rank_is_not_tried_again(tmp_path: Path) -> None:
    settings = {"fail_rank": 1, "for_user": True}
    plan = chains.plan(tmp_path, "train", 1, resources=Size(tasks_per_node=2), settings=settings)
    assert run(chains.write(tmp_path, [plan], chains.cluster())).returncode == 1
    assert len(list((plan.path / "failed").glob("*.json"))) == 1  # one execution


def test_only_one_runner_at_a_time(tmp_path: Path) -> None:
    run_dir = chains.write(tmp_path, [chains.plan(tmp_path, "first", 1)], chains.cluster())
    held = runner.lock(run_dir)
    assert held is not None
    assert runner.process_id(run_dir) == os.getpid()
    assert run(run_dir).returncode == 0
    assert not (run_dir / "first" / "done").exists()
    held.close()
    assert runner.process_id(run_dir) is None


def test_a_runner_that_has_reported_its_end_is_waited_for(tmp_path: Path) -> None:
    run_dir = chains.write(tmp_path, [chains.plan(tmp_path, "first", 1)], chains.cluster())
    held = runner.lock(run_dir)
    assert held is not None
    assert local.start(run_dir, ["first"]) is None  # it works
    runner.report(run_dir, 0, [])
    threading.Timer(0.5, held.close).start()
    assert local.start(run_dir, ["first"]) is not None
    assert runner.wait(run_dir) == 0
    assert (run_dir / "first" / "done").exists()
