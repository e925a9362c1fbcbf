"""What a stage has made and what it cost: checks its manifests and adds them up in `summary.json`."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diagcot.jobs.plans import growth
from diagcot.jobs.plans.plan import Plan, read, require_own_folders
from diagcot.jobs.state import attempts
from diagcot.jobs.state.counts import added
from diagcot.jobs.state.executions import executions, gpu_hours, logs_of
from diagcot.jobs.state.files import append_line, remove, write_json
from diagcot.jobs.state.ledger import manifest, settle, withdraw

LAG_S = 30  # how late a file that another node has written may appear (NFS attribute caches)
MANY = 20_000  # manifests that a submission has the time to read


def check(plan: Plan, patience_s: float = 0) -> list[str]:
    """Finish interrupted publishing, reopen units whose outputs are gone or whose manifests are damaged, and return the
    keys that are not done.

    A unit that seems to be missing is looked for again until `patience_s` seconds have passed: files of another node may
    appear late.
    """
    end, left = time.monotonic() + patience_s, list(plan.keys)
    while True:
        missing = set(plan.missing())
        left = [key for key in left if key in missing or settle(plan.path, key)]
        if not left or time.monotonic() >= end:
            break
        time.sleep(0.5)
    reopened = [key for key in left if key not in missing]
    for key in reopened:
        withdraw(plan.path, key)
    if reopened:
        print(
            f"stage {plan.stage}: files of {len(reopened)} finished units are gone or damaged; these run again",
            flush=True,
        )
        growth.close(plan)  # a unit that another one has replaced does not run again
        left = plan.missing()
    return left


def reopen(plan: Plan, patience_s: float = 0) -> list[str]:
    """Reopen the units of a complete stage whose files are gone or damaged, so that they are made again; returns their keys.

    Of a stage of over `MANY` units the manifests are only read if its folder is gone. patience_s: as for `check`.
    """
    if plan.missing() or (len(plan.units) > MANY and plan.output.exists()):
        return []
    if gone := check(plan, patience_s):
        (plan.path / "summary.json").unlink(missing_ok=True)
    return gone


def summarise_if_complete(stage_dir: Path | str) -> None:
    """End a stage whose tasks were submitted by hand, once all of its units are done."""
    plan = read(Path(stage_dir))
    if not plan.missing():
        summarise(plan, check(plan))


def summarise(plan: Plan, missing: list[str], why: str = "") -> dict[str, Any]:
    """Add up the manifests into `summary.json`, and return its content. Removes the workspace of a stage that is done.

    missing: keys of the units that are not done. why: what stopped the stage.
    """
    left = set(missing)
    rows = [row for key in plan.keys if key not in left and (row := manifest(plan.path, key))]
    counts = added(row["counts"] for row in rows)
    submissions, effort = attempts.read(plan.path), executions(plan.path, plan.gpus)
    startup = sum(row.get("startup_seconds", 0) for row in rows)
    seconds = startup + sum(row.get("seconds", 0) for row in rows)
    summary = {
        "run": plan.run,
        "stage": plan.stage,
        "state": "failed" if missing else "done",
        "why": why,
        "units": len(plan.keys),
        "missing": missing[:1000],
        "attempts": len(submissions),
        "submissions": [_submission(attempt) for attempt in submissions],
        "retries": effort.retries,
        "failures": effort.failures,
        "seconds": seconds,
        "startup_seconds": startup,
        "gpu_hours": effort.gpu_hours,
        "cpu_hours": seconds * plan.resources.cpus * plan.resources.ranks / 3600,
        "started": min(
            (row["started"] - row.get("startup_seconds", 0) for row in rows if "started" in row), default=None
        ),
        "ended": max((row["time"] for row in rows), default=None),
        "counts": counts,
        **_headline_cost(plan, counts),
    }
    write_json(plan.path / "summary.json", summary)
    event = {"time": time.time(), "event": "finalised", "state": summary["state"], "missing": len(missing)}
    append_line(plan.path / "events.jsonl", json.dumps(event))
    if not missing:
        clean(plan)
    return summary


def _headline_cost(plan: Plan, counts: Mapping[str, Any]) -> dict[str, float]:
    """GPU-hours for a thousand of the headline count, all executions included; empty if no GPU was used."""
    headline = plan.headline
    if not counts.get(headline.count):
        return {}
    stages = [plan, *(read(plan.path.parent / stage) for stage in headline.stages)]
    hours = sum(gpu_hours(stage.path, stage.gpus, logs_of(stage.path)) for stage in stages)
    return {f"gpu_hours_per_1000_{headline.count}": 1000 * hours / counts[headline.count]} if hours else {}


def _submission(attempt: attempts.Attempt) -> dict[str, Any]:
    tasks = sum(len(array.tasks) for array in attempt.arrays)
    return {"number": attempt.number, "by": attempt.by, "why": attempt.why, "tasks": tasks, "time": attempt.time}


def clean(plan: Plan) -> None:
    """Remove what only an unfinished stage needs, and what killed executions had staged.

    Raises UserError, and removes nothing, if a folder of the plan does not belong to the run.
    """
    require_own_folders(plan)
    remove(plan.workspace, plan.workspace.parent)
    remove(plan.path / "partial", plan.path)
    for path in (plan.path / "done").glob(".*"):  # a manifest that a killed execution was about to publish
        remove(path, plan.path)
    logs = (path.name.removesuffix(".log") for path in (plan.path / "out").glob("*.log"))
    tokens = tuple({f".{name.partition('.')[2].split('.r')[0]}" for name in logs})
    for path in plan.output.glob(".*.*"):
        if path.name.endswith(tokens):
            remove(path, plan.output)
