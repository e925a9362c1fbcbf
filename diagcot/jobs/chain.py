"""Links the stages of a run as Slurm jobs: what is complete, queued or to be submitted, and what waits for what."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from diagcot.jobs import attempts, slurm, submit
from diagcot.jobs.attempts import Attempt
from diagcot.jobs.causes import MEMORY_FACTOR, Verdict
from diagcot.jobs.cluster import Cluster
from diagcot.jobs.errors import UserError
from diagcot.jobs.plan import Plan, read
from diagcot.jobs.settings import load


@dataclasses.dataclass(frozen=True)
class Submitted:
    """What became of one stage: `complete`, `queued` already, or `submitted` now."""

    stage: str
    state: str
    jobs: tuple[str, ...] = ()
    tasks: int = 0


def live_attempt(plan: Plan) -> Attempt | None:
    """The newest submission of a stage if its finaliser has not ended."""
    made = attempts.read(plan.path)
    return made[-1] if made and made[-1].finaliser and slurm.alive([made[-1].finaliser]) else None


def submit_chain(plans: Sequence[Plan], selected: set[str], cluster: Cluster) -> list[Submitted]:
    """Submit the selected stages of a run, in order, each waiting for what it follows.

    Raises UserError if a stage follows one that is neither complete, queued nor selected.
    """
    chunk = slurm.max_array_size()
    known = {plan.stage: plan for plan in plans}
    queued: dict[str, Attempt] = {}
    told = []
    for plan in plans:
        if plan.stage not in selected:
            continue
        if not plan.missing():
            told.append(Submitted(plan.stage, "complete"))
            continue
        if (live := live_attempt(plan)) is not None:
            queued[plan.stage] = live
            told.append(Submitted(plan.stage, "queued", tuple(live.jobs)))
            continue
        slots = plan.open_slots()
        work_after, final_after = [], []
        for edge in plan.after:
            source = known[edge.stage]
            if not source.missing():
                continue
            before = queued.get(edge.stage) or live_attempt(source)
            if before is None:
                raise UserError(_never_submitted(plan, source))
            if edge.each and [a.slots for a in before.arrays] == _chunks(slots, chunk):
                # Element-wise only while both sides cut their tasks alike; arrays of one element are plain jobs.
                final_after.append(before.finaliser)
                work_after.append((before, True))
            else:
                work_after.append((before, False))
        made = _submit_linked(plan, cluster, slots, work_after, final_after, chunk, "submitted")
        queued[plan.stage] = made
        told.append(Submitted(plan.stage, "submitted", tuple(made.jobs), len(slots)))
    return told


def require_upstream(plans: Sequence[Plan], selected: set[str]) -> None:
    """Raise UserError if a selected stage follows one that is neither complete nor selected."""
    known = {plan.stage: plan for plan in plans}
    for plan in plans:
        if plan.stage in selected and plan.missing():
            for edge in plan.after:
                if edge.stage not in selected and known[edge.stage].missing():
                    raise UserError(_never_submitted(plan, known[edge.stage]))


def _never_submitted(plan: Plan, source: Plan) -> str:
    return (
        f"stage {plan.stage} follows {source.stage}, which is neither complete nor queued in run {plan.run}: "
        f"run `make submit-stage{source.number}` (or submit-all) with the same RUN first"
    )


def _chunks(slots: Sequence[int], chunk: int) -> list[tuple[int, ...]]:
    return [tuple(slots[i : i + chunk]) for i in range(0, len(slots), chunk)]


def _submit_linked(
    plan: Plan,
    cluster: Cluster,
    slots: Sequence[int],
    before: Sequence[tuple[Attempt, bool]],
    final_after: Sequence[str],
    chunk: int,
    why: str,
) -> Attempt:
    whole = [f"afterok:{attempt.finaliser}" for attempt, each in before if not each]
    pairs = [attempt for attempt, each in before if each]
    if not pairs:
        return submit.submit(plan, cluster, slots, [",".join(whole)], final_after, why, chunk)
    dependencies = []
    for index, part in enumerate(_chunks(slots, chunk)):
        verb = "aftercorr" if len(part) > 1 else "afterok"
        dependencies.append(",".join([*whole, *(f"{verb}:{attempt.arrays[index].job}" for attempt in pairs)]))
    return submit.submit(plan, cluster, slots, dependencies, final_after, why, chunk)


def resubmit(plan: Plan, verdict: Verdict, changes: dict[str, object] | None = None) -> Attempt:
    """Submit the tasks that have units left once more, with what their cause asks for."""
    cluster = load(plan.path.parent / "cluster.yaml", Cluster)
    size = plan.resources
    if verdict.more_memory and size.mem_gb:
        size = size.model_copy(update={"mem_gb": size.mem_gb * MEMORY_FACTOR ** len(attempts.read(plan.path))})
    if verdict.exclude:
        size = size.model_copy(update={"exclude": ",".join(filter(None, [size.exclude, verdict.exclude]))})
    size = size.model_copy(update=changes or {})
    plan = dataclasses.replace(plan, resources=size)
    return submit.submit(plan, cluster, plan.open_slots(), [""], [], verdict.why, slurm.max_array_size())


def follow(plan: Plan, old: str, new: str) -> list[str]:
    """Let all that waited for finaliser `old` wait for `new` instead; returns the jobs that were changed.

    Elements of an element-wise dependent whose partner failed were cancelled by Slurm; their own finaliser, which
    waits here as well, finds their units missing and submits them again.
    """
    changed = []
    for folder in sorted(plan.path.parent.iterdir()):
        if not (folder / "plan.json").exists() or plan.stage not in [edge.stage for edge in read(folder).after]:
            continue
        for attempt in attempts.read(folder)[-1:]:
            for job in attempt.jobs:
                kind = "afterany" if job == attempt.finaliser else "afterok"
                text = slurm.dependency_of(job)
                if old in text:
                    slurm.depend(job, _replace(text, old, f"{kind}:{new}"))
                    changed.append(job)
    return changed


def _replace(text: str, old: str, new: str) -> str:
    """A dependency expression as scontrol prints it, with the part that names job `old` replaced."""
    parts = [part.split("(")[0] for part in text.replace("?", ",").split(",") if part]
    kept = [part for part in parts if part.split(":")[-1].split("_")[0] != old]
    return ",".join([*kept, new])


def cancel(run_dir: Path) -> list[str]:
    """Cancel every queued or running job of a run; returns their ids."""
    jobs = [
        job
        for folder in run_dir.iterdir()
        if folder.is_dir()
        for attempt in attempts.read(folder)
        for job in attempt.jobs
    ]
    live = sorted(slurm.alive([job for job in jobs if job.isdigit()]))  # a laptop's attempts have no Slurm job
    slurm.cancel(live)
    return live
