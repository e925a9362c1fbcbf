"""Why a task ended without finishing its units, and what follows from it (design: causes decide)."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diagcot.jobs import attempts, slurm
from diagcot.jobs.errors import UserError
from diagcot.jobs.plan import Plan, read

MAX_FAILURES = 2  # the same exception of one task this often: stop and show it
MEMORY_FACTOR = 1.5


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


def last_job(plan: Plan, slot: int, history: dict[str, slurm.Job]) -> slurm.Job:
    """The newest job that accounting has for a task; one in state UNKNOWN where it has none."""
    for attempt in reversed(attempts.read(plan.path)):
        for array in attempt.arrays:
            if slot in array.slots:
                name = array.job if len(array.slots) == 1 else f"{array.job}_{array.slots.index(slot)}"
                return history.get(name, slurm.Job(name, "UNKNOWN"))
    return slurm.Job("", "UNKNOWN")


def upstream_complete(plan: Plan) -> bool:
    """Whether all stages that this one follows are done."""
    return all(not read(plan.path.parent / edge.stage).missing() for edge in plan.after)


def judge(plan: Plan, max_attempts: int) -> Verdict:
    """Decide for the whole stage: one cause that forbids a retry stops it."""
    jobs = [array.job for attempt in attempts.read(plan.path) for array in attempt.arrays]
    try:
        history = slurm.history(jobs)
    except UserError:
        history = {}
    slots = tuple(plan.open_slots())
    jobs_of = {slot: last_job(plan, slot, history) for slot in slots}
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
