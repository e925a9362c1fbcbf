"""Runs of the test kind, built without a recipe."""

import json
import os
import time
from pathlib import Path
from typing import Any

from diagcot.jobs import Cluster, Plan
from diagcot.jobs.cluster import Size
from diagcot.jobs.plans import plan as plans
from diagcot.jobs.plans.plan import Edge
from diagcot.jobs.plans.units import Units
from diagcot.jobs.state import runner

ROOT = Path(__file__).resolve().parent.parent


def cluster(executor: str = "local", **more: Any) -> Cluster:
    """A cluster with one small resource profile; `more`: other fields."""
    about = {"name": "test", "executor": executor, "parallel": 2, "resource_profiles": {"small": {}}}
    return Cluster.model_validate(about | more)


def plan(root: Path, stage: str, count: int, **more: Any) -> Plan:
    """A plan of the test kind with `count` units; `more`: other fields."""
    made: dict[str, Any] = {
        "run": root.name,
        "stage": stage,
        "number": "0",
        "kind": "tests.kinds.count",
        "settings": {},
        "inputs": {},
        "output": root / "out" / stage,
        "workspace": root / "work" / root.name / ".work" / stage,
        "shards_root": root / "out",
        "seed": 1,
        "after": (),
        "resources": Size(minutes=5),
        "tasks": plans.pack(count, 0, 60, 60),
        "path": root / "logs" / root.name / stage,
        "code": str(ROOT),
        "units": Units(f"{k:05d}" for k in range(count)),
    } | more
    return Plan(**made)


def write(root: Path, chain: list[Plan], on: Cluster) -> Path:
    """Write the plans as `launchers.chain` does; returns the run's folder."""
    for stage in chain:
        plans.write(stage)
    run_dir = chain[0].path.parent
    (run_dir / "cluster.yaml").write_text(json.dumps(on.model_dump(mode="json")))
    (run_dir / "stages").write_text("\n".join(stage.stage for stage in chain))
    (run_dir / "run.json").write_text(json.dumps({"run": root.name}))
    return run_dir


def wait_for_end(run_dir: Path, code: int, seconds: float = 90) -> None:
    """Wait until the run's runner on this machine has ended, with this exit code."""
    end = time.monotonic() + seconds
    while not (run_dir / "runner.json").exists() or runner.process_id(run_dir):
        assert time.monotonic() < end, (run_dir / "runner.log").read_text()
        time.sleep(0.1)
    assert json.loads((run_dir / "runner.json").read_text())["code"] == code, os.listdir(run_dir)


__all__ = ["Edge", "cluster", "plan", "wait_for_end", "write"]
