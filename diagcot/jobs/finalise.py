"""Ends a stage: checks its manifests, writes `summary.json`, submits again what may be retried, lets the next go."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagcot.jobs import attempts, causes, worker
from diagcot.jobs.cluster import Cluster
from diagcot.jobs.errors import UserError
from diagcot.jobs.files import append_line, write_json
from diagcot.jobs.ledger import manifest, settle, withdraw
from diagcot.jobs.plan import Plan, read
from diagcot.jobs.settings import load

VISIBLE_S = 10  # what another node has just written may show up here this late (NFS keeps listings and misses)


class StageFailed(UserError):
    """The stage has units that are not done and may not be retried."""


@dataclass(frozen=True)
class Finaliser:
    """What submitit pickles for the job that follows a stage's arrays."""

    stage_dir: str

    def __call__(self) -> str:
        return finalise_on_slurm(Path(self.stage_dir))


def check(plan: Plan, patience_s: float = 0) -> list[str]:
    """Finish half-done publishing, take back units whose outputs are gone, and return the keys that are not done.

    What seems to be missing is looked for again until `patience_s` have passed: where the units were done on other
    nodes, it may only be late.
    """
    end = time.monotonic() + patience_s
    settled: set[str] = set()
    while True:
        missing = set(plan.missing())
        gone = {k for k in plan.keys if k not in missing and k not in settled and settle(plan.path, k)}
        settled |= set(plan.keys) - missing - gone
        if not (missing or gone) or time.monotonic() >= end:
            break
        time.sleep(0.5)
    for key in gone:
        withdraw(plan.path, key)
    return [key for key in plan.keys if key in missing or key in gone]


def summarise(plan: Plan, missing: list[str]) -> dict[str, Any]:
    """Add up the manifests into `summary.json`."""
    counts: dict[str, float] = {}
    rows = [row for key in plan.keys if key not in set(missing) and (row := manifest(plan.path, key))]
    for row in rows:
        for name, value in row["counts"].items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                counts[name] = counts.get(name, 0) + value
    size = plan.resources
    summary = {
        "run": plan.run,
        "stage": plan.stage,
        "state": "failed" if missing else "done",
        "units": len(plan.keys),
        "missing": missing[:1000],
        "attempts": len(attempts.read(plan.path)),
        "failures": len(list((plan.path / "failed").glob("*.json"))),
        "seconds": sum(row.get("seconds", 0) + row.get("startup_seconds", 0) for row in rows),
        "gpu_hours": sum(row.get("gpu_seconds", 0) for row in rows) / 3600,
        "cpu_hours": sum(row.get("seconds", 0) + row.get("startup_seconds", 0) for row in rows)
        * size.cpus
        * size.ranks
        / 3600,
        "started": min((row["started"] - row.get("startup_seconds", 0) for row in rows), default=None),
        "ended": max((row["time"] for row in rows), default=None),
        "counts": counts,
    }
    write_json(plan.path / "summary.json", summary)
    event = {"time": time.time(), "event": "finalised", "state": summary["state"], "missing": len(missing)}
    append_line(plan.path / "events.jsonl", json.dumps(event))
    if not missing:
        worker.clean(plan)
    return summary


def finalise_on_slurm(stage_dir: Path) -> str:
    """The finaliser's job. Returns "done" or "retried"; raises StageFailed, which cancels what depends on the stage."""
    from diagcot.jobs import chain  # the chain submits finalisers: each needs the other at run time only

    os.umask(0o077)
    plan = read(stage_dir)
    missing = check(plan, VISIBLE_S)
    if not missing:
        summarise(plan, missing)
        return "done"
    if not causes.upstream_complete(plan):
        summarise(plan, missing)
        raise StageFailed(f"stage {plan.stage} did not run to its end because a stage before it failed")
    limit = load(stage_dir.parent / "cluster.yaml", Cluster).max_attempts
    verdict = causes.judge(plan, limit)
    if verdict.retry:
        made = chain.resubmit(plan, verdict)
        mine = attempts.read(plan.path)[-2].finaliser
        chain.follow(plan, mine, made.finaliser)
        return "retried"
    summarise(plan, missing)
    raise StageFailed(f"stage {plan.stage}: {len(missing)} of {len(plan.keys)} units are not done. {verdict.why}")
