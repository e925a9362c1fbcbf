"""Ends a stage: checks its manifests, writes `summary.json`, submits again what may be retried, lets the next go."""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagcot.jobs import causes
from diagcot.jobs.cluster import Cluster
from diagcot.jobs.errors import UserError
from diagcot.jobs.execution import worker
from diagcot.jobs.plans.plan import Plan, read
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.state import attempts
from diagcot.jobs.state.executions import executions, gpu_hours, logs_of
from diagcot.jobs.state.files import append_line, write_json
from diagcot.jobs.state.ledger import manifest, settle, withdraw

VISIBLE_S = 10  # what another node has just written may show up here this late (NFS keeps listings and misses)
AWAY_S = 1800  # how long a finaliser waits for a slurmctld that is away


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
    end, left = time.monotonic() + patience_s, list(plan.keys)
    while True:
        missing = set(plan.missing())
        left = [key for key in left if key in missing or settle(plan.path, key)]
        if not left or time.monotonic() >= end:
            break
        time.sleep(0.5)
    for key in left:
        if key not in missing:
            withdraw(plan.path, key)
    return left


def summarise(plan: Plan, missing: list[str], why: str = "") -> dict[str, Any]:
    """Add up the manifests into `summary.json`; `why`: what stopped the stage. Every submission is told with its cause."""
    counts: dict[str, float] = {}
    left = set(missing)
    rows = [row for key in plan.keys if key not in left and (row := manifest(plan.path, key))]
    for row in rows:
        for name, value in row["counts"].items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                counts[name] = counts.get(name, 0) + value
    made, taken = attempts.read(plan.path), executions(plan.path, plan.gpus)
    startup = sum(row.get("startup_seconds", 0) for row in rows)
    seconds = startup + sum(row.get("seconds", 0) for row in rows)
    summary = {
        "run": plan.run,
        "stage": plan.stage,
        "state": "failed" if missing else "done",
        "why": why,
        "units": len(plan.keys),
        "missing": missing[:1000],
        "attempts": len(made),
        "submissions": [_told(attempt) for attempt in made],
        "retries": taken.retries,
        "failures": taken.failures,
        "seconds": seconds,
        "startup_seconds": startup,
        "gpu_hours": taken.gpu_hours,
        "cpu_hours": seconds * plan.resources.cpus * plan.resources.ranks / 3600,
        "started": min(
            (row["started"] - row.get("startup_seconds", 0) for row in rows if "started" in row), default=None
        ),
        "ended": max((row["time"] for row in rows), default=None),
        "counts": counts,
        **_priced(plan, counts),
    }
    write_json(plan.path / "summary.json", summary)
    event = {"time": time.time(), "event": "finalised", "state": summary["state"], "missing": len(missing)}
    append_line(plan.path / "events.jsonl", json.dumps(event))
    if not missing:
        worker.clean(plan)
    return summary


def _priced(plan: Plan, counts: Mapping[str, float]) -> dict[str, float]:
    """GPU-hours for a thousand of what the stage yields, all executions counted; nothing where no GPU was used."""
    if not counts.get(plan.yields):
        return {}
    made_by = [plan, *(read(plan.path.parent / stage) for stage in plan.yields_from)]
    hours = sum(gpu_hours(one.path, one.gpus, logs_of(one.path)) for one in made_by)
    return {f"gpu_hours_per_1000_{plan.yields}": 1000 * hours / counts[plan.yields]} if hours else {}


def _told(attempt: attempts.Attempt) -> dict[str, Any]:
    tasks = sum(len(array.slots) for array in attempt.arrays)
    return {"number": attempt.number, "by": attempt.by, "why": attempt.why, "tasks": tasks, "time": attempt.time}


def finalise_on_slurm(stage_dir: Path) -> str:
    """The finaliser's job. Returns "done", "retried" or "superseded"; raises StageFailed, which cancels what follows.

    It may itself be killed and requeued at any point: it then finds what it has submitted, and goes on from there. So
    it does when slurmctld is away, for which it waits; to fail would cancel all that follows.
    """
    from diagcot.jobs.slurm import submit  # submits finalisers: each needs the other at run time only

    os.umask(0o077)
    end, wait = time.monotonic() + AWAY_S, 1.0
    while True:
        try:
            return _finalise(stage_dir)
        except slurm.SlurmError as error:
            if not submit.passing(str(error)) or time.monotonic() > end:
                raise
            print(f"{time.strftime('%F %T')} {error}: once more in {wait:.0f} s", flush=True)
            time.sleep(wait)
            wait = min(2 * wait, 60)


def _finalise(stage_dir: Path) -> str:
    from diagcot.jobs import chain
    from diagcot.jobs.slurm import submit

    mine = os.environ["SLURM_JOB_ID"]
    plan, cluster = read(stage_dir), Cluster.read(stage_dir.parent)
    told, left = {int(row["task"]) for row in causes.failures(plan.path)}, set(plan.open_slots())
    missing = check(plan, 0 if left and left <= told else VISIBLE_S)  # a task that raised is not merely late
    if not missing:
        summarise(plan, missing)
        return "done"
    if not causes.upstream_complete(plan):
        why = "it did not run to its end because a stage before it failed"
        summarise(plan, missing, why)
        raise StageFailed(f"stage {plan.stage}: {why}")
    with chain.runs_lease(stage_dir.parent):
        # What a killed launcher has left is finished first: a stage that waits for this job has to be known, to be told.
        for name in (stage_dir.parent / "stages").read_text().split():
            submit.recover(read(stage_dir.parent / name), cluster)
        newest = [attempt for attempt in attempts.read(stage_dir) if attempt.finaliser][-1]
        if newest.finaliser != mine:
            chain.follow(plan, mine, newest.finaliser)
            return "superseded"
        verdict = causes.judge(plan, cluster.max_attempts)
        if verdict.again:
            chain.resubmit(plan, verdict, mine)
            return "retried"
    summarise(plan, missing, verdict.why)
    raise StageFailed(f"stage {plan.stage}: {len(missing)} of {len(plan.keys)} units are not done. {verdict.why}")
