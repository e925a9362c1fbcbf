"""Links the stages of a run as Slurm jobs: what is complete, queued or to be submitted, and what waits for what."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diagcot.jobs.causes import Rule, Verdict
from diagcot.jobs.cluster import Cluster, Size
from diagcot.jobs.errors import UserError
from diagcot.jobs.lease import submit_lease
from diagcot.jobs.plans.plan import Plan, read
from diagcot.jobs.slurm import capacity, submit
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.slurm.quota import QueueQuota
from diagcot.jobs.state import attempts
from diagcot.jobs.state.attempts import RETRY_FACTOR, Array, Attempt
from diagcot.jobs.state.progress import Progress
from diagcot.jobs.summary import check, summarise


@dataclass(frozen=True)
class Submitted:
    """What became of one stage: `complete`, `queued` already, `submitted` now, `released` from being held, or `done` here."""

    stage: str
    state: str
    jobs: tuple[str, ...] = ()
    tasks: int = 0
    later: int = 0  # tasks that a submit limit leaves to the finaliser


def live_attempt(plan: Plan) -> Attempt | None:
    """The newest submission of a stage that has a finaliser, if the finaliser has not ended.

    A finaliser that may not submit has ended its work, although it is held in the queue for what waits for it.
    """
    newest = next((attempt for attempt in reversed(attempts.read(plan.path)) if attempt.finaliser), None)
    if newest is None or newest.finaliser == attempts.handed_over(plan.path)[0]:
        return None
    return newest if slurm.alive({newest.finaliser: newest.finaliser_name}) else None


def alive(stage_dir: Path) -> set[str]:
    """Jobs and arrays of a stage that are queued or running, finalisers included."""
    return slurm.alive({job: name for attempt in attempts.read(stage_dir) for job, name in attempt.names.items()})


def submit_chain(
    plans: Sequence[Plan],
    selected: set[str],
    cluster: Cluster,
    why: str = "submitted",
    sizes: Mapping[str, Size] | None = None,
    code: str = "",
) -> list[Submitted]:
    """Submit the selected stages of a run, in order, each waiting for what it follows.

    sizes: stage -> resources other than its plan's. code: a snapshot other than the plans'. Tasks beyond a submit limit
    are left to the stage's finaliser. Raises UserError if a stage follows one that is neither complete, queued nor
    selected, or if the queue has no room at all.
    """
    with submit_lease(plans[0].path.parent):
        for plan in plans:
            submit.recover(plan, cluster, anew=True)
        incomplete = {plan.stage for plan in plans if plan.missing()}
        live = {plan.stage: attempt for plan in plans if plan.stage in incomplete and (attempt := live_attempt(plan))}
        todo = [plan for plan in plans if plan.stage in selected & incomplete - live.keys()]
        known = {plan.stage: plan for plan in plans}
        _require(todo, live.keys() | (selected & incomplete), incomplete, known)
        options = {plan.stage: cluster.options((sizes or {}).get(plan.stage, plan.resources)) for plan in todo}
        finalisers = {plan.stage: cluster.options(cluster.finaliser(plan.stage)) for plan in todo}
        quota = QueueQuota.query([*options.values(), *finalisers.values()]) if todo else None
        results = []
        for plan in (plan for plan in plans if plan.stage in selected):
            if plan.stage not in incomplete:
                if not (plan.path / "summary.json").exists():  # its finaliser died after the last unit was done
                    summarise(plan, check(plan))
                results.append(Submitted(plan.stage, "complete"))
            elif plan not in todo:
                results.append(Submitted(plan.stage, "queued", tuple(live[plan.stage].jobs)))
            else:
                assert quota is not None
                size = (sizes or {}).get(plan.stage, plan.resources)
                open_tasks, later_stages = plan.open_tasks(), [later.stage for later in todo[todo.index(plan) + 1 :]]
                # A task and a finaliser of every later stage, and the replacement of this stage's finaliser.
                others = [row[stage] for stage in later_stages for row in (options, finalisers)]
                others.append(finalisers[plan.stage])
                room = quota.take(plan.stage, len(open_tasks), options[plan.stage], finalisers[plan.stage], others)
                tasks = open_tasks[:room]
                upstream = [
                    (edge.elementwise and plan.packed_like(known[edge.stage]), live[edge.stage])
                    for edge in plan.after
                    if edge.stage in live
                ]
                arrays, after = _linked(tasks, size, upstream, quota.limits.array_size)
                about = {"code": code or attempts.last_code(plan.path, plan.code), "progress": _progress(plan, tasks)}
                live[plan.stage] = attempt = submit.submit(plan, cluster, arrays, why, after, **about)
                _take_over(plan, attempt, cluster, quota)
                later = len(open_tasks) - len(tasks)
                results.append(Submitted(plan.stage, "submitted", tuple(attempt.jobs), len(tasks), later))
    return results


def _take_over(plan: Plan, attempt: Attempt, cluster: Cluster, quota: QueueQuota) -> None:
    """Let all that waits for a finaliser that may not submit follow the attempt that a person makes in its place."""
    held, _ = attempts.handed_over(plan.path)
    if not held:
        return
    _resubmit_partners(plan, attempt, cluster, quota)
    follow(plan, held, attempt.finaliser)
    names = {job: name for before in attempts.read(plan.path) for job, name in before.names.items()}
    slurm.cancel(sorted(slurm.alive({held: names.get(held, "")})))
    attempts.take_over(plan.path)


def _progress(plan: Plan, tasks: Iterable[int]) -> dict[int, Progress]:
    """How far these tasks have come, for the record of their submission."""
    return {task_index: reached for task_index, reached in plan.progress().items() if task_index in set(tasks)}


def _require(todo: Sequence[Plan], available: set[str], incomplete: set[str], known: Mapping[str, Plan]) -> None:
    for plan in todo:
        for edge in plan.after:
            if edge.stage in incomplete and edge.stage not in available:
                raise UserError(_never_submitted(plan, known[edge.stage]))


def require_upstream(plans: Sequence[Plan], selected: set[str]) -> None:
    """Raise UserError if a selected stage follows one that is neither complete nor selected."""
    incomplete = {plan.stage for plan in plans if plan.missing()}
    todo = [plan for plan in plans if plan.stage in selected & incomplete]
    _require(todo, selected, incomplete, {plan.stage: plan for plan in plans})


def _never_submitted(plan: Plan, source: Plan) -> str:
    verb = f"make submit-stage{source.number}" if source.number.isdigit() else f"make submit-{source.number}"
    return (
        f"stage {plan.stage} follows {source.stage}, which is not complete and not queued: run `{verb} RUN={plan.run}`"
        " first, or `make submit-all`"
    )


def _chunks(tasks: Sequence[int], chunk: int) -> Iterator[tuple[int, ...]]:
    return (tuple(tasks[i : i + chunk]) for i in range(0, len(tasks), chunk))


def _linked(
    tasks: Sequence[int], size: Size, upstream: Sequence[tuple[bool, Attempt]], array_size: int
) -> tuple[list[Array], str]:
    """The arrays of `tasks`, each with its dependency, and what their finaliser follows in addition.

    upstream: (whether elementwise, attempt) of each stage that is followed. Elementwise only where both sides have the
    same arrays: element i of an array follows element i of its partner.
    """
    chunks = list(_chunks(tasks, array_size))
    pairs = [attempt for elementwise, attempt in upstream if elementwise and _same_arrays(attempt, chunks)]
    whole = [attempt for _, attempt in upstream if attempt not in pairs]
    arrays = []
    for index, chunk in enumerate(chunks):
        after = [f"afterok:{attempt.finaliser}" for attempt in whole]
        after += [_elementwise(attempt.arrays[index]) for attempt in pairs]
        arrays.append(Array("", chunk, after=",".join(after), resources=size.stored()))
    return arrays, ",".join(f"afterany:{attempt.finaliser}" for attempt in pairs)


def _same_arrays(attempt: Attempt, chunks: Sequence[tuple[int, ...]]) -> bool:
    partners = [array.tasks for array in attempt.arrays]
    return len(chunks) <= len(partners) and all(
        chunk == partner[: len(chunk)] and (len(chunk) > 1) == (len(partner) > 1)  # an array of one is a plain job
        for chunk, partner in zip(chunks, partners, strict=False)
    )


def _elementwise(partner: Array) -> str:
    return f"{'aftercorr' if len(partner.tasks) > 1 else 'afterok'}:{partner.job}"


def retry(
    plans: Sequence[Plan],
    plan: Plan,
    cluster: Cluster,
    changes: Mapping[str, Any],
    code: str,
    before: Cluster | None = None,
) -> list[Submitted]:
    """Submit the open tasks of `plan` with changed resources or code, and what follows it; or release what is held.

    before: the cluster as it was at the last submission, where its file has changed since.
    """
    if live_attempt(plan) is not None:
        if released := release(plan):
            return [released]
        raise UserError(
            f"stage {plan.stage} is queued or running: `make watch RUN={plan.run}` shows it, `make cancel RUN={plan.run}` ends it"
        )
    size = _retried(plan, planned(plan, cluster), planned(plan, before or cluster), changes)
    reasons = [f"{name}={value}" for name, value in changes.items()] + ([f"code={Path(code).name}"] if code else [])
    reasons += [f"cluster file: {', '.join(cluster.differences(before))}"] if before else []
    plans = [replace(row, resources=planned(row, cluster)) for row in plans]
    selected = {plan.stage, *downstream(plans, plan.stage)}
    return submit_chain(plans, selected, cluster, " ".join(["retry", *reasons]), {plan.stage: size}, code)


def planned(plan: Plan, cluster: Cluster) -> Size:
    """The resources that the cluster gives the stage, which may have changed since it was planned."""
    return cluster.resources(plan.profile, plan.stage) if plan.profile else plan.resources


def _retried(plan: Plan, now: Size, before: Size, changes: Mapping[str, Any]) -> Size:
    """The resources of a retry: the most memory and time that a task had since a person last submitted it, and changes.

    now, before: what the cluster file says, and what it said then; what differs is taken as it is now.
    """
    submissions, size = attempts.read(plan.path), now
    first = max((index for index, attempt in enumerate(submissions) if attempt.by == "person"), default=0)
    arrays = [array for attempt in submissions[first:] for array in attempt.arrays]
    given = [Size.given(array.resources) for array in arrays if array.resources]
    if now.node_mem_gb and now.node_mem_gb == before.node_mem_gb:
        size = size.with_memory(max([now.node_mem_gb, *(found.node_mem_gb or 0 for found in given)]))
    if now.minutes == before.minutes:
        size = size.model_copy(update={"minutes": max([now.minutes, *(found.minutes for found in given)])})
    if "mem_gb" in changes:
        size = size.with_memory(changes["mem_gb"])
    others = {name: value for name, value in changes.items() if name != "mem_gb"}
    return Size.model_validate(size.model_dump() | others)


def downstream(plans: Sequence[Plan], stage: str) -> list[str]:
    """The stages that follow `stage`, directly or not, in order."""
    stages = [stage]
    for plan in plans:  # in order, so that one pass finds all
        if any(edge.stage in stages for edge in plan.after):
            stages.append(plan.stage)
    return stages[1:]


def release(plan: Plan) -> Submitted | None:
    """Release the jobs of a stage that are held, its finaliser too; None if there are none."""
    names = {job: name for attempt in attempts.read(plan.path) for job, name in attempt.names.items()}
    own = [job for job in slurm.queue() if names.get(job.id.split("_")[0]) == job.name]
    released = [job.id for job in own if _is_held(job) and slurm.release(job.id)]
    return Submitted(plan.stage, "released", tuple(released), len(released)) if released else None


def _is_held(job: slurm.Job) -> bool:
    """Reasons such as JobHeldAdmin, JobHoldMaxRequeue, `launch failed requeued held`."""
    return "held" in job.reason.lower() or job.reason.startswith("JobHold")


def resubmit(plan: Plan, verdict: Verdict, finaliser: str) -> Attempt:
    """Submit the tasks that may run again, with the resources that their causes ask for.

    finaliser: the job that calls this. What waited for it waits for the new finaliser. Of the stages that follow unit by
    unit, the elements that Slurm cancelled because their partner had failed are submitted again with their partner.
    """
    cluster = Cluster.read(plan.path.parent)
    usual = planned(plan, cluster)
    quota = QueueQuota.wait(cluster, plan.stage, usual)
    own, own_finaliser = cluster.options(usual), cluster.options(cluster.finaliser(plan.stage))
    tasks = list(verdict.retries)[: quota.take(plan.stage, len(verdict.retries), own, own_finaliser)]
    newest = attempts.newest_arrays(plan.path)
    known = capacity.partitions()
    groups: dict[str, tuple[Size, list[int]]] = {}
    for task_index in tasks:
        before = Size.given(newest[task_index][1].resources) if task_index in newest else usual
        size = _escalated(before, usual, verdict.retries[task_index], cluster.slurm.partition, known)
        size = _without(size, verdict.exclude)
        groups.setdefault(size.model_dump_json(), (size, []))[1].append(task_index)
    arrays = [
        Array("", chunk, resources=size.stored())
        for size, group in groups.values()
        for chunk in _chunks(group, quota.limits.array_size)
    ]
    about: dict[str, Any] = {
        "by": "finaliser",
        "code": attempts.last_code(plan.path, plan.code),
        "spent": verdict.spent,
        "progress": _progress(plan, verdict.retries),
    }
    attempt = submit.submit(plan, cluster, arrays, verdict.why, "", **about)
    _resubmit_partners(plan, attempt, cluster, quota)
    follow(plan, finaliser, attempt.finaliser)
    return attempt


def _escalated(
    before: Size, planned: Size, rule: Rule, default: str | None, known: Mapping[str, capacity.Partition]
) -> Size:
    """The resources of the next attempt of a task that had `before`: more memory up to the largest node's, more time once.

    default: the partition of a size that names none.
    """
    size, partition = before, before.partition or default
    if rule.more_memory and (given := size.node_mem_gb):
        most = capacity.most_memory(size, partition, known) or math.inf
        size = size.with_memory(min(given * RETRY_FACTOR, max(most, given)))
    if rule.more_time and size.minutes == planned.minutes:
        longest = capacity.most_minutes(size, partition, known) or math.inf
        size = size.model_copy(
            update={"minutes": int(min(size.minutes * RETRY_FACTOR + 1, max(longest, size.minutes)))}
        )
    return size


def _without(size: Size, nodes: str) -> Size:
    """The same resources on other nodes than these, a list separated by commas."""
    names = dict.fromkeys(filter(None, [*(size.exclude or "").split(","), *nodes.split(",")]))
    return size.model_copy(update={"exclude": ",".join(names) or None})


def _resubmit_partners(plan: Plan, attempt: Attempt, cluster: Cluster, quota: QueueQuota) -> None:
    """Submit the cancelled elements that follow `attempt` unit by unit, and those that follow them.

    The finaliser of each of these stages waits for them too.
    """
    queued = {job.id for job in slurm.queue()}
    for folder in _followers(plan):
        partner = read(folder)
        elementwise = any(edge.elementwise and edge.stage == plan.stage for edge in partner.after)
        if not elementwise or not partner.packed_like(plan):
            continue
        live, newest = live_attempt(partner), attempts.newest_arrays(folder)
        absent = {task for task in partner.open_tasks() if task not in newest or newest[task][2] not in queued}
        size = _retried(partner, planned(partner, cluster), planned(partner, cluster), {})
        arrays = [
            Array("", array.tasks, after=_elementwise(array), resources=size.stored())
            for array in attempt.arrays
            if set(array.tasks) <= absent and len(array.tasks) < quota.room(cluster.options(size))
        ]
        if not arrays or live is None:
            continue  # its own finaliser will submit what is left
        quota.use(cluster.options(size), sum(len(array.tasks) for array in arrays))
        why = f"with its partner in {plan.stage}"
        about: dict[str, Any] = {
            "by": "finaliser",
            "code": attempts.last_code(folder, partner.code),
            "spent": live.spent,
        }
        retry_attempt = submit.submit(partner, cluster, arrays, why, None, **about)
        slurm.depend(live.finaliser, "", [f"afterany:{array.job}" for array in retry_attempt.arrays])
        _resubmit_partners(partner, retry_attempt, cluster, quota)


def _followers(plan: Plan) -> Iterator[Path]:
    """Folders of the stages that follow this one."""
    for folder in sorted(plan.path.parent.iterdir()):
        if (folder / "plan.json").exists() and plan.stage in [edge.stage for edge in read(folder).after]:
            yield folder


def follow(plan: Plan, old: str, new: str) -> list[str]:
    """Let all that waits for finaliser `old` wait for `new` instead; returns the jobs that were changed."""
    changed = []
    for folder in _followers(plan):
        for attempt in attempts.read(folder):
            for job in attempt.jobs:
                kind = "afterany" if job == attempt.finaliser else "afterok"
                if slurm.depend(job, old, [f"{kind}:{new}"]):
                    changed.append(job)
    return changed
