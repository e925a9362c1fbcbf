"""What is known about a run before it is submitted. Nothing here submits anything.

When it would start, jobs that Slurm would accept and never start, limits that split the submission, and stages that lack
time or disk space.
"""

import re
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diagcot.jobs.cluster import Cluster, Size
from diagcot.jobs.plans.plan import Plan
from diagcot.jobs.slurm import capacity, sbatch
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.slurm.limits import Limits
from diagcot.jobs.slurm.quota import QueueQuota

PATIENCE_S = 3.0  # the plan is shown without Slurm's answers rather than late
UNIT_SHARE = 0.8  # of a time limit that start-up and one unit may be expected to take


@dataclass(frozen=True)
class Forecast:
    """What is known about stages that would be submitted.

    storage: stage -> bytes of its product, None if not known. work: stage -> bytes that it needs until it is done. free:
    stage -> bytes free where it will write them. limits: the user's submit limits, None if not known. starts: stage -> when
    it would start, empty if Slurm gives no time. warnings: what will fail. notes: worth knowing, but harmless. unknown: what
    could not be asked, and why.
    """

    storage: Mapping[str, int | None] = field(default_factory=dict)
    work: Mapping[str, int] = field(default_factory=dict)
    free: Mapping[str, int] = field(default_factory=dict)
    limits: Limits | None = None
    starts: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    notes: Sequence[str] = ()
    unknown: Sequence[str] = ()


def forecast(
    plans: Sequence[Plan], cluster: Cluster, storage: Mapping[str, int | None], work: Mapping[str, int] | None = None
) -> Forecast:
    """The forecast of these plans. storage: stage -> bytes of its product, None if that is not known. work: stage -> bytes
    that it needs until it is done.
    """
    work = work or {}
    warnings = [*too_short(plans), *too_little_space(plans, storage, work), *without_effect(plans, cluster)]
    free = {plan.stage: free_bytes(plan.output) for plan in plans}
    if cluster.executor != "slurm":
        return Forecast(storage, work, free, warnings=warnings)
    if not slurm.available():
        lines = ["start times and limits are not known: Slurm's commands are not on PATH here"]
        return Forecast(storage, work, free, warnings=warnings, unknown=lines)
    return _ask_slurm(plans, cluster, Forecast(storage, work, free, warnings=warnings))


def _ask_slurm(plans: Sequence[Plan], cluster: Cluster, known: Forecast) -> Forecast:
    """`known` with Slurm's answers, which are waited for at the same time."""
    stages = {plan.stage for plan in plans}
    first = [plan for plan in plans if not any(edge.stage in stages for edge in plan.after)]
    jobs = [cluster.options(size) for plan in plans for size in (plan.resources, cluster.finaliser(plan.stage))]
    with ThreadPoolExecutor(8) as pool:
        partitions = pool.submit(capacity.partitions, PATIENCE_S)
        quota = pool.submit(QueueQuota.query, jobs, PATIENCE_S)
        tests = {plan.stage: pool.submit(test_only, plan, cluster) for plan in first}
    warnings, notes, unknown = [*known.warnings], [], []
    if error := _slurm_error(partitions):
        unknown.append(f"whether every stage could start: {error}")
        never: dict[str, str] = {}
    else:
        never = misfits(plans, cluster, partitions.result())
        warnings += _grouped(never)
    if error := _slurm_error(quota):
        unknown.append(f"limits of the queue: {error}")
    else:
        notes += waves(plans, cluster, quota.result())
    starts = {}
    for stage, test in tests.items():
        if error := _slurm_error(test):
            unknown.append(f"when {stage} would start: {error}")
            continue
        starts[stage], refusal = parse_test_only(test.result())
        if refusal and stage not in never:
            warnings.append(f"{stage}: Slurm would refuse it: {refusal}")
    return Forecast(
        known.storage,
        known.work,
        known.free,
        None if _slurm_error(quota) else quota.result().limits,
        starts,
        warnings,
        notes,
        _joined(unknown),
    )


def _slurm_error(answer: "Future[Any]") -> slurm.SlurmError | None:
    error = answer.exception()
    if error is not None and not isinstance(error, slurm.SlurmError):
        raise error
    return error


def _joined(unknown: Sequence[str]) -> list[str]:
    """One line for all queries if they failed for the same reason."""
    causes = [line.partition(": ")[2] for line in unknown]
    if len(unknown) > 2 and len({re.sub(r"\b(sinfo|scontrol|sbatch)\b", "", cause) for cause in causes}) == 1:
        return [f"Slurm did not answer, so start times, limits and fitting sizes are not known: {causes[0]}"]
    return list(unknown)


def too_short(plans: Sequence[Plan]) -> list[str]:
    """Stages of which a single unit may not end within the time limit."""
    return [
        f"{plan.stage}: start-up and one unit take about {(plan.startup_s + plan.unit_s) / 60:.0f} minutes of a limit of"
        f" {plan.resources.minutes}: raise minutes of its size in the cluster file"
        for plan in plans
        if plan.startup_s + plan.unit_s > UNIT_SHARE * plan.resources.minutes * 60
    ]


def too_little_space(plans: Sequence[Plan], storage: Mapping[str, int | None], work: Mapping[str, int]) -> list[str]:
    """File systems with less free space than the products of the stages take, with the work files of the one that has most."""
    rows_of: dict[int, list[tuple[str, int]]] = {}
    place_of: dict[int, Path] = {}
    for plan in plans:
        place = existing(plan.output)
        device = place.stat().st_dev
        place_of.setdefault(device, place)
        rows_of.setdefault(device, []).append((plan.stage, storage.get(plan.stage) or 0))
    messages = []
    for device, rows in rows_of.items():
        free, need = free_bytes(place_of[device]), sum(size for _, size in rows)
        need += max((work.get(stage, 0) for stage, _ in rows), default=0)
        if need > free:
            largest = max(rows, key=lambda row: row[1])[0]
            messages.append(
                f"{place_of[device]} has {free / 1e9:.1f} GB free, and about {need / 1e9:.1f} GB will be written"
                f" ({largest} most of it): free some, or set other roots in the cluster file"
            )
    return messages


def without_effect(plans: Sequence[Plan], cluster: Cluster) -> list[str]:
    """What the cluster file asks for and only Slurm can give."""
    if cluster.executor == "slurm":
        return []
    asked = {
        "setup": bool(cluster.setup),
        "container": cluster.container is not None,
        "mem_gb": any(plan.resources.node_mem_gb for plan in plans),
    }
    if not (names := [name for name, given in asked.items() if given]):
        return []
    return [
        f"{', '.join(names)} of cluster {cluster.name} ha{'ve' if len(names) > 1 else 's'} no effect: with executor:"
        f" {cluster.executor} stages run in this environment, with all of this machine's memory"
    ]


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(place for place in (path, *path.parents) if place.exists())


def free_bytes(path: Path) -> int:
    """Bytes free in the file system where `path` is or will be."""
    return shutil.disk_usage(existing(path)).free


def waves(plans: Sequence[Plan], cluster: Cluster, quota: QueueQuota) -> list[str]:
    """How the cluster's limits split the submission."""
    array_size = quota.limits.array_size
    messages = [
        f"{plan.stage}: {plan.tasks} tasks are split into {-(-plan.tasks // array_size)} arrays (MaxArraySize {array_size})"
        for plan in plans
        if plan.tasks > array_size
    ]
    exceeded = []
    for bound, free in quota.free.items():
        jobs = sum(
            plan.tasks * bound.holds(cluster.options(plan.resources))
            + bound.holds(cluster.options(cluster.finaliser(plan.stage)))
            for plan in plans
        )
        if jobs > free:
            exceeded.append((free, jobs, bound))
    if exceeded:
        free, jobs, bound = min(exceeded)
        messages.append(
            f"{jobs} jobs with the finalisers, and the queue takes {max(0, free)} more ({bound.name} {bound.most},"
            f" {bound.most - free} queued already): the finalisers submit the remaining tasks later"
        )
    return messages


def misfits(plans: Sequence[Plan], cluster: Cluster, known: Mapping[str, capacity.Partition]) -> dict[str, str]:
    """Stage -> why its jobs could never start, for stages that Slurm may accept all the same."""
    faults = {
        plan.stage: capacity.misfit(plan.resources, plan.resources.partition or cluster.slurm.partition, known)
        for plan in plans
    }
    return {stage: fault for stage, fault in faults.items() if fault}


def _grouped(faults: Mapping[str, str]) -> list[str]:
    """One line for each fault, with all its stages."""
    stages_of: dict[str, list[str]] = {}
    for stage, fault in faults.items():
        stages_of.setdefault(fault, []).append(stage)
    return [f"{', '.join(stages)}: could never start: {fault}" for fault, stages in stages_of.items()]


def test_only(plan: Plan, cluster: Cluster) -> str:
    """What `sbatch --test-only` answers about the stage's array; it submits nothing."""
    # The start of an array is that of its first task; an array that is too large for Slurm is split anyway.
    options = sbatch.options(plan, cluster, plan.resources, min(plan.tasks, 2))
    return slurm.answer("sbatch", "--test-only", *sbatch.flags(options), "--wrap=true", timeout=PATIENCE_S)


def refusal(cluster: Cluster, size: Size, timeout: float = PATIENCE_S) -> str:
    """Why Slurm refuses a job of this size now, or for ever; empty if it does not. Submits nothing. Raises SlurmError."""
    chosen = sbatch.request(cluster, size)
    now = {name: value for name, value in chosen.items() if name not in ("begin", "dependency")}
    answer = slurm.answer("sbatch", "--test-only", *sbatch.flags(now), "--wrap=true", timeout=timeout)
    return parse_test_only(answer)[1]


def parse_test_only(answer: str) -> tuple[str, str]:
    """(when the job would start, why Slurm refuses it), from the answer of `sbatch --test-only`.

    >>> parse_test_only("sbatch: Job 7 to start at 2026-01-02T03:04:05 using 2 processors on nodes n1 in partition gpu")
    ('2026-01-02T03:04:05', '')
    """
    match = re.search(r"to start at (\S+)", answer)
    if match:
        return match.group(1), ""
    lines = [line.removeprefix("sbatch: ").removeprefix("error: ") for line in answer.splitlines() if line.strip()]
    fault = next((line for line in reversed(lines) if "fail" in line.lower()), lines[-1] if lines else "no answer")
    return "", fault.removeprefix("allocation failure: ").removeprefix("Batch job submission failed: ")
