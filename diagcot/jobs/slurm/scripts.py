"""The scripts of a run that a person submits by hand, in `logs/<run>/scripts/`.

They do what the launcher's scripts do: same worker, same plan, same code, same resources. They differ in two ways: the
person gives the dependencies, which are comments here, and the last task ends its stage, because no finaliser follows.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from diagcot.jobs.cluster import Cluster
from diagcot.jobs.plans.plan import Plan
from diagcot.jobs.slurm import sbatch
from diagcot.jobs.state.files import write_text

FOLDER = "scripts"


def write(plans: Sequence[Plan], cluster: Cluster, array_size: int) -> list[Path]:
    """Write the scripts of a run whose plans are written; returns their paths in the order of the stages.

    array_size: the most tasks of one array; a stage that has more gets several scripts.
    """
    folder = plans[0].path.parent / FOLDER
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.sbatch"):
        old.unlink()
    chunks = {
        plan.stage: [range(plan.tasks)[i : i + array_size] for i in range(0, plan.tasks, array_size)] for plan in plans
    }
    names = {stage: _names(stage, len(parts)) for stage, parts in chunks.items()}
    known = {plan.stage: plan for plan in plans}
    paths = []
    for plan in plans:
        (plan.path / sbatch.FOLDER).mkdir(exist_ok=True)  # sbatch does not create the folder of its output
        for index, tasks in enumerate(chunks[plan.stage]):
            path = folder / names[plan.stage][index]
            notes = [*_about(plan, path), *_follows(plan, index, known, names)]
            write_text(path, sbatch.by_hand(plan, cluster, tasks, notes))
            paths.append(path)
    return paths


def _names(stage: str, count: int) -> list[str]:
    return [f"{stage}.sbatch"] if count == 1 else [f"{stage}.{index}.sbatch" for index in range(count)]


def _about(plan: Plan, path: Path) -> Iterator[str]:
    yield f"Stage {plan.stage} of run {plan.run}, to be submitted by hand: sbatch {path}"
    yield "It skips finished units; submit it again to continue. Nothing is retried by itself."


def _follows(plan: Plan, index: int, known: Mapping[str, Plan], names: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """What the script follows, as sbatch options with a place for each job id."""
    for edge in plan.after:
        sources = names[edge.stage]
        if edge.elementwise and plan.packed_like(known[edge.stage]):
            how = "aftercorr" if plan.tasks > 1 else "afterok"
            yield f"Follows {edge.stage} task by task: --dependency={how}:<job of {sources[index]}>"
        elif sources:
            jobs = ":".join(f"<job of {name}>" for name in sources)
            yield f"Follows {edge.stage}: --dependency=afterok:{jobs}"
