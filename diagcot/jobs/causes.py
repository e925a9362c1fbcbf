"""Why a task ended without finishing its units, and what follows from it (design: causes decide)."""

import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diagcot.jobs import attempts, slurm
from diagcot.jobs.errors import UserError
from diagcot.jobs.plan import Plan, read

MAX_FAILURES = 2  # the same exception of one task this often: stop and show it
MEMORY_FACTOR = 1.5
LAG_S = 15  # accounting was seen up to 4 s behind the queue
UNFINISHED = ("PENDING", "RUNNING", "COMPLETING", "REQUEUED")


@dataclass(frozen=True)
class Rule:
    retry: bool
    counted: bool = False  # against the cluster's max_attempts
    more_memory: bool = False
    exclude_node: bool = False
    say: str = ""


RULES: dict[str, Rule] = {
    "PREEMPTED": Rule(True, say="preempted: runs again, free of charge"),
    "NODE_FAIL": Rule(True, exclude_node=True, say="the node failed: runs again elsewhere"),
    "BOOT_FAIL": Rule(True, exclude_node=True, say="the node did not boot: runs again elsewhere"),
    "TIMEOUT": Rule(True, counted=True, say="time limit: goes on from its last record or checkpoint"),
    "OUT_OF_MEMORY": Rule(True, counted=True, more_memory=True, say="out of memory: runs again with more"),
    "FAILED": Rule(True, counted=True, say="failed: tried once more"),
    "CANCELLED": Rule(False, say="cancelled by a person: never retried by itself"),
    "DEPENDENCY": Rule(True, say="what it follows had failed and was run again"),
    "DEADLINE": Rule(False, say="its deadline passed"),
    "UNKNOWN": Rule(True, counted=True, say="Slurm does not tell why"),
}


@dataclass(frozen=True)
class Verdict:
    retry: bool
    why: str
    slots: tuple[int, ...] = ()
    more_memory: bool = False
    states: dict[int, str] = field(default_factory=dict)
    exclude: str = ""  # nodes that failed under the stage


def failures(stage_dir: Path) -> list[dict[str, Any]]:
    """What workers wrote when a kind raised, oldest first."""
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in (stage_dir / "failed").glob("*.json")]
    return sorted(rows, key=lambda row: row["time"])


def last_jobs(plan: Plan, slots: tuple[int, ...]) -> dict[int, slurm.Job]:
    """The newest job of each task as accounting has it, waited for as long as accounting may lag behind.

    A job that it does not know, or that is not over by then, is in state UNKNOWN; so are all without accounting.
    """
    names: dict[int, str] = {}
    for attempt in attempts.read(plan.path):  # the newest attempt of a slot wins
        for array in attempt.arrays:
            for index, slot in enumerate(array.slots):
                names[slot] = array.job if len(array.slots) == 1 else f"{array.job}_{index}"
    wanted = {slot: names.get(slot, "") for slot in slots}
    end = time.monotonic() + LAG_S
    while True:
        try:
            history = slurm.history(sorted({name.split("_")[0] for name in wanted.values()}))
        except UserError:
            history, end = {}, 0.0
        known = {name: job for name, job in history.items() if job.state not in UNFINISHED}
        if time.monotonic() >= end or all(name in known for name in wanted.values()):
            return {slot: known.get(name, slurm.Job(name, "UNKNOWN")) for slot, name in wanted.items()}
        time.sleep(1)


def upstream_complete(plan: Plan) -> bool:
    """Whether all stages that this one follows are done."""
    return all(not read(plan.path.parent / edge.stage).missing() for edge in plan.after)


def judge(plan: Plan, max_attempts: int) -> Verdict:
    """Decide for the whole stage: one cause that forbids a retry stops it."""
    slots = tuple(plan.open_slots())
    jobs_of = last_jobs(plan, slots)
    states = {slot: job.state for slot, job in jobs_of.items()}
    failed = failures(plan.path)
    repeated = [row for row in failed if row["for_user"]]
    seen = Counter((row["task"], row["type"], row["message"]) for row in failed if row["rank"] == 0)
    again = [name for name, times in seen.items() if times >= MAX_FAILURES]
    if repeated:
        return Verdict(False, repeated[-1]["message"], slots, states=states)
    if again:
        return Verdict(False, f"The same {again[0][1]} came twice: {again[0][2][:300]}", slots, states=states)
    rules = [RULES.get(state, RULES["UNKNOWN"]) for state in states.values()]
    stop = [rule for rule in rules if not rule.retry]
    if stop:
        return Verdict(False, stop[0].say, slots, states=states)
    tries = len(attempts.read(plan.path))
    if any(rule.counted for rule in rules) and tries >= max_attempts:
        return Verdict(
            False, f"{tries} attempts, the limit of this cluster, have not finished it.", slots, states=states
        )
    why = "; ".join(dict.fromkeys(rule.say for rule in rules))
    bad = {job.nodes for job, rule in zip(jobs_of.values(), rules, strict=True) if rule.exclude_node and job.nodes}
    return Verdict(True, why, slots, any(rule.more_memory for rule in rules), states, ",".join(sorted(bad)))
