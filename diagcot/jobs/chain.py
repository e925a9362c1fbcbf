"""Links the stages of a run as Slurm jobs: what is complete, queued or to be submitted, and what waits for what."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diagcot.jobs.causes import Rule, Verdict
from diagcot.jobs.cluster import Cluster, Size
from diagcot.jobs.errors import UserError
from diagcot.jobs.lease import lease
from diagcot.jobs.plans.plan import Plan, read
from diagcot.jobs.slurm import capacity, submit
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.slurm import limits as slurm_limits
from diagcot.jobs.state import attempts
from diagcot.jobs.state.attempts import RETRY_FACTOR, Array, Attempt
from diagcot.jobs.summary import check, summarise

QUOTA_S = 1200


@dataclass(frozen=True)
class Submitted:
    """What became of one stage: `complete`, `queued` already, `submitted` now, or `released` from being held."""

    stage: str
    state: str
    jobs: tuple[str, ...] = ()
    tasks: int = 0
    later: int = 0  # tasks that a submit limit leaves to the finaliser


@dataclass
class QueueQuota:
    """How many more jobs Slurm takes of this user."""

    limits: slurm_limits.Limits
    left: int

    @classmethod
    def ask(cls, cluster: Cluster, sizes: Sequence[Size]) -> "QueueQuota":
        partition = next((size.partition for size in sizes if size.partition), cluster.slurm.partition)
        limits = slurm_limits.limits(cluster.slurm.account, cluster.slurm.qos, partition)
        return cls(limits, limits.submit - len(slurm.queue()))

    @classmethod
    def wait(cls, cluster: Cluster, size: Size) -> "QueueQuota":
        """QueueQuota for at least a task and its finaliser, waited for where the user's other jobs fill the queue."""
        end = time.monotonic() + QUOTA_S
        while (quota := cls.ask(cluster, [size])).left < 2 and time.monotonic() < end:
            time.sleep(5)
        return quota

    def take(self, stage: str, wanted: int, reserve: int) -> int:
        """QueueQuota for some of `wanted` tasks and their finaliser, `reserve` being left over. Raises UserError if none."""
        given = min(wanted, self.left - reserve - 1)
        if given < 1:
            raise UserError(
                f"no quota for stage {stage}: {self.limits.name} is {self.limits.submit}, and your queue leaves"
                f" {max(0, self.left)} of it. Wait until jobs have ended, or submit fewer stages at once"
            )
        self.left -= given + 1
        return given


def runs_lease(run_dir: Path) -> Any:
    """The right to submit jobs of this run."""
    return lease(run_dir / "submit")


def live_attempt(plan: Plan) -> Attempt | None:
    """The newest submission of a stage that has a finaliser, if that one has not ended."""
    made = [attempt for attempt in attempts.read(plan.path) if attempt.finaliser]
    return made[-1] if made and slurm.alive({made[-1].finaliser: made[-1].finaliser_name}) else None


def alive(stage_dir: Path) -> set[str]:
    """Jobs and arrays of a stage that are queued or running, finalisers included."""
    return slurm.alive({job: name for made in attempts.read(stage_dir) for job, name in made.names.items()})


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
    selected, or if there is no quota at all.
    """
    with runs_lease(plans[0].path.parent):
        for plan in plans:
            submit.recover(plan, cluster)
        open_now = {plan.stage for plan in plans if plan.missing()}
        live = {plan.stage: made for plan in plans if plan.stage in open_now and (made := live_attempt(plan))}
        todo = [plan for plan in plans if plan.stage in selected & open_now - live.keys()]
        known = {plan.stage: plan for plan in plans}
        _require(todo, live.keys() | (selected & open_now), open_now, known)
        quota = QueueQuota.ask(cluster, [plan.resources for plan in plans]) if todo else None
        told = []
        for plan in plans:
            if plan.stage not in selected:
                continue
            if plan.stage not in open_now:
                if not (plan.path / "summary.json").exists():  # its finaliser died after the last unit was done
                    summarise(plan, check(plan))
                told.append(Submitted(plan.stage, "complete"))
                continue
            if plan not in todo:
                told.append(Submitted(plan.stage, "queued", tuple(live[plan.stage].jobs)))
                continue
            assert quota is not None
            size = (sizes or {}).get(plan.stage, plan.resources)
            tasks, reserve = plan.open_tasks(), 2 * (len(todo) - 1 - todo.index(plan)) + 1
            some = tasks[: quota.take(plan.stage, len(tasks), reserve)]
            before = [
                (edge.elementwise and plan.packed_like(known[edge.stage]), live[edge.stage])
                for edge in plan.after
                if edge.stage in live
            ]
            arrays, after = _linked(some, size, before, quota.limits.array_size)
            progress = {
                task_index: reached for task_index, reached in plan.progress().items() if task_index in set(some)
            }
            live[plan.stage] = made = submit.submit(
                plan,
                cluster,
                arrays,
                why,
                after,
                code=code or attempts.last_code(plan.path, plan.code),
                progress=progress,
            )
            told.append(Submitted(plan.stage, "submitted", tuple(made.jobs), _tasks(made), len(tasks) - _tasks(made)))
    return told


def _tasks(attempt: Attempt) -> int:
    return sum(len(array.tasks) for array in attempt.arrays)


def _require(todo: Sequence[Plan], served: set[str], open_now: set[str], known: Mapping[str, Plan]) -> None:
    for plan in todo:
        for edge in plan.after:
            if edge.stage in open_now and edge.stage not in served:
                raise UserError(_never_submitted(plan, known[edge.stage]))


def require_upstream(plans: Sequence[Plan], selected: set[str]) -> None:
    """Raise UserError if a selected stage follows one that is neither complete nor selected."""
    open_now = {plan.stage for plan in plans if plan.missing()}
    todo = [plan for plan in plans if plan.stage in selected & open_now]
    _require(todo, selected, open_now, {plan.stage: plan for plan in plans})


def _never_submitted(plan: Plan, source: Plan) -> str:
    verb = f"make submit-stage{source.number}" if source.number.isdigit() else f"make submit-{source.number}"
    return (
        f"stage {plan.stage} follows {source.stage}, which is not complete and not queued: run `{verb} RUN={plan.run}`"
        " first, or `make submit-all`"
    )


def _chunks(tasks: Sequence[int], chunk: int) -> Iterator[tuple[int, ...]]:
    return (tuple(tasks[i : i + chunk]) for i in range(0, len(tasks), chunk))


def _linked(
    tasks: Sequence[int], size: Size, before: Sequence[tuple[bool, Attempt]], chunk: int
) -> tuple[list[Array], str]:
    """The arrays of `tasks`, each with its dependency, and what their finaliser follows beside them.

    Element-wise only where both sides cut their tasks alike: element i of an array follows element i of its partner.
    """
    parts = list(_chunks(tasks, chunk))
    pairs = [attempt for each, attempt in before if each and _alike(attempt, parts)]
    whole = [attempt for each, attempt in before if attempt not in pairs]
    arrays = []
    for index, part in enumerate(parts):
        after = [f"afterok:{attempt.finaliser}" for attempt in whole]
        after += [_element_wise(attempt.arrays[index]) for attempt in pairs]
        arrays.append(Array("", part, after=",".join(after), resources=size.model_dump()))
    return arrays, ",".join(f"afterany:{attempt.finaliser}" for attempt in pairs)


def _alike(attempt: Attempt, parts: Sequence[tuple[int, ...]]) -> bool:
    partners = [array.tasks for array in attempt.arrays]
    return len(parts) <= len(partners) and all(
        part == partner[: len(part)] and (len(part) > 1) == (len(partner) > 1)  # an array of one is a plain job
        for part, partner in zip(parts, partners, strict=False)
    )


def _element_wise(partner: Array) -> str:
    return f"{'aftercorr' if len(partner.tasks) > 1 else 'afterok'}:{partner.job}"


def retry(
    plans: Sequence[Plan], plan: Plan, cluster: Cluster, changes: Mapping[str, Any], code: str
) -> list[Submitted]:
    """Submit the open tasks of `plan` with changed resources or code, and what follows it; or release what is held."""
    if live_attempt(plan) is not None:
        return [_release(plan)]
    size = Size.model_validate(plan.resources.model_dump() | _last_resources(plan) | dict(changes))
    told = [f"{name}={value}" for name, value in changes.items()] + ([f"code={Path(code).name}"] if code else [])
    selected = {plan.stage, *downstream(plans, plan.stage)}
    return submit_chain(plans, selected, cluster, " ".join(["retry", *told]), {plan.stage: size}, code)


def _last_resources(plan: Plan) -> dict[str, Any]:
    """What the stage's tasks were last given, the largest memory and time that any of them had."""
    sizes = [array.resources for attempt in attempts.read(plan.path) for array in attempt.arrays]
    return {
        name: max((size[name] for size in sizes if size.get(name)), default=getattr(plan.resources, name))
        for name in ("mem_gb", "minutes")
    }


def downstream(plans: Sequence[Plan], stage: str) -> list[str]:
    """The stages that follow `stage`, directly or not, in order."""
    found = [stage]
    for plan in plans:  # in order, so that one pass finds all
        if any(edge.stage in found for edge in plan.after):
            found.append(plan.stage)
    return found[1:]


def _release(plan: Plan) -> Submitted:
    names = {job: name for attempt in attempts.read(plan.path) for job, name in attempt.names.items()}
    held = [job.id for job in slurm.queue() if names.get(job.id.split("_")[0]) == job.name and _is_held(job)]
    if not held:
        raise UserError(
            f"stage {plan.stage} is queued or running: `make watch RUN={plan.run}` shows it, `make cancel` ends it"
        )
    for job in held:
        slurm.release(job)
    return Submitted(plan.stage, "released", tuple(held), len(held))


def _is_held(job: slurm.Job) -> bool:
    """Reasons such as JobHeldAdmin, JobHoldMaxRequeue, `launch failed requeued held`."""
    return "held" in job.reason.lower() or job.reason.startswith("JobHold")


def resubmit(plan: Plan, verdict: Verdict, mine: str) -> Attempt:
    """Submit the tasks that may run again, with what their causes ask for; called by finaliser `mine` of the stage.

    What waited for `mine` waits for the new finaliser. Of the stages that follow unit by unit, the elements that Slurm
    cancelled because their partner had failed are submitted again with their partner.
    """
    cluster = Cluster.read(plan.path.parent)
    quota = QueueQuota.wait(cluster, plan.resources)
    tasks = list(verdict.again)[: quota.take(plan.stage, len(verdict.again), 0)]
    newest = attempts.newest_arrays(plan.path)
    known = capacity.partitions()
    groups: dict[str, tuple[Size, list[int]]] = {}
    for task_index in tasks:
        before = Size.model_validate(newest[task_index][1].resources) if task_index in newest else plan.resources
        size = _escalated(before, plan.resources, verdict.again[task_index], cluster.slurm.partition, known)
        size = _without(size, verdict.exclude)
        groups.setdefault(size.model_dump_json(), (size, []))[1].append(task_index)
    arrays = [
        Array("", part, resources=size.model_dump())
        for size, group in groups.values()
        for part in _chunks(group, quota.limits.array_size)
    ]
    about: dict[str, Any] = {
        "by": "finaliser",
        "code": attempts.last_code(plan.path, plan.code),
        "spent": verdict.spent,
    }
    progress = {task_index: reached for task_index, reached in plan.progress().items() if task_index in verdict.again}
    made = submit.submit(plan, cluster, arrays, verdict.why, "", progress=progress, **about)
    _resubmit_partners(plan, made, cluster, quota)
    follow(plan, mine, made.finaliser)
    return made


def _escalated(
    before: Size, planned: Size, rule: Rule, default: str | None, known: Mapping[str, capacity.Partition]
) -> Size:
    """What a task gets that ran with `before`: more memory up to the largest node's, more time once.

    default: the partition of a size that names none.
    """
    size, partition = before, before.partition or default
    if rule.more_memory and size.mem_gb:
        most = capacity.most_memory(size, partition, known) or math.inf
        size = size.model_copy(update={"mem_gb": min(size.mem_gb * RETRY_FACTOR, max(most, size.mem_gb))})
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


def _resubmit_partners(plan: Plan, made: Attempt, cluster: Cluster, quota: QueueQuota) -> None:
    """Submit the cancelled elements that follow `made` unit by unit, and theirs; each stage's own finaliser waits."""
    queued = {job.id for job in slurm.queue()}
    for folder in _followers(plan):
        partner = read(folder)
        if not any(edge.elementwise and edge.stage == plan.stage for edge in partner.after) or not partner.packed_like(
            plan
        ):
            continue
        finaliser = live_attempt(partner)
        left, given = set(partner.open_tasks()), attempts.newest_arrays(folder)
        gone = {task_index for task_index in left if task_index not in given or given[task_index][2] not in queued}
        last = partner.resources.model_dump() | _last_resources(partner)
        arrays = [
            Array("", array.tasks, after=_element_wise(array), resources=last)
            for array in made.arrays
            if set(array.tasks) <= gone and len(array.tasks) <= quota.left - 1
        ]
        if not arrays or finaliser is None:
            continue  # its own finaliser will submit what is left
        quota.left -= sum(len(array.tasks) for array in arrays)
        why = f"with its partner in {plan.stage}"
        again = submit.submit(
            partner,
            cluster,
            arrays,
            why,
            None,
            by="finaliser",
            code=attempts.last_code(folder, partner.code),
            spent=finaliser.spent,
        )
        slurm.depend(finaliser.finaliser, "", [f"afterany:{array.job}" for array in again.arrays])
        _resubmit_partners(partner, again, cluster, quota)


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


def cancel(run_dir: Path) -> list[str]:
    """Cancel every queued or running job of a run, those of a submission that was cut short included; returns ids."""
    with runs_lease(run_dir):
        names: dict[str, str] = {}
        for folder in (folder for folder in run_dir.iterdir() if folder.is_dir()):
            if cut := attempts.intended(folder):
                _close(folder, cut)
            for attempt in attempts.read(folder):
                names |= attempt.names
        # A laptop's attempts have no job of Slurm's.
        live = sorted(slurm.alive({job: name for job, name in names.items() if job.isdigit()}))
        slurm.cancel(live)
    return live


def _close(folder: Path, cut: Attempt) -> None:
    """Record a submission that was cut short as far as it went, so that nobody completes it."""
    arrays = [replace(array, job=found[0]) for array in cut.arrays if (found := slurm.named(array.name))]
    finaliser = slurm.named(cut.finaliser_name) if cut.finaliser_name else []
    attempts.write(
        folder,
        replace(cut, why=f"{cut.why}, cut short and cancelled", arrays=tuple(arrays), finaliser="".join(finaliser[:1])),
    )
