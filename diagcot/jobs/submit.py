"""Submits the tasks of a plan to Slurm through submitit: one sbatch an array, a finaliser after all of them."""

import contextlib
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from diagcot.jobs import attempts, slurm
from diagcot.jobs.attempts import Array, Attempt
from diagcot.jobs.cluster import Cluster, Size
from diagcot.jobs.finalise import Finaliser
from diagcot.jobs.plan import Plan
from diagcot.jobs.worker import Worker

SUBMIT_TRIES = 4


def script_options(plan: Plan, cluster: Cluster, size: Size, dependency: str, role: str) -> dict[str, Any]:
    """Keyword arguments for submitit's SlurmExecutor (names of its `update_parameters`)."""
    options: dict[str, Any] = {
        "job_name": f"{plan.run}.{plan.stage}{'' if role == 'work' else '.' + role}",
        "partition": size.partition or cluster.slurm.partition,
        "account": cluster.slurm.account,
        "qos": cluster.slurm.qos,
        "constraint": cluster.slurm.constraint,
        "time": size.minutes,
        "nodes": size.nodes,
        "ntasks_per_node": size.tasks_per_node,
        "cpus_per_task": size.cpus,
        "mem": f"{int(size.mem_gb * 1024)}MB" if size.mem_gb else None,
        "gpus_per_node": size.gpus * size.tasks_per_node or None,
        "exclude": size.exclude,
        "array_parallelism": size.array_parallelism,
        "signal_delay_s": min(cluster.warning_seconds, size.minutes * 30),
        "dependency": dependency or None,
        "stderr_to_stdout": True,
        "srun_args": ["--cpu-bind=none", "--kill-on-bad-exit=1"],
        "setup": [*plan.setup, "umask 077", f"export PYTHONPATH={shlex.quote(plan.code)}"],
        "use_srun": role == "work",  # the finaliser submits jobs itself, which srun's step is no place for
        "comment": f"diagcot {plan.run}/{plan.stage}",
        "additional_parameters": {
            "kill-on-invalid-dep": "yes",
            "requeue" if size.requeue else "no-requeue": True,
            **cluster.slurm.extra,
        },
    }
    return {name: value for name, value in options.items() if value is not None}


@contextlib.contextmanager
def outside_of_jobs() -> Iterator[None]:
    """Hide the variables of the job that we may run in (a finaliser, an salloc shell) from the jobs we submit."""
    hidden = {
        k: v for k, v in os.environ.items() if k.startswith(("SLURM_", "SBATCH_", "SUBMITIT_")) and k != "SLURM_CONF"
    }
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def _executor(plan: Plan, **options: Any) -> Any:
    import submitit  # imported late: planning and watching do without

    executor = submitit.SlurmExecutor(folder=plan.path / "submitit")
    executor.update_parameters(**options)
    return executor


def _send(plan: Plan, options: dict[str, Any], calls: Sequence[Any]) -> str:
    """One sbatch for `calls`; returns the job or array id. Retries while slurmctld is away."""
    for attempt in range(SUBMIT_TRIES):
        try:
            with outside_of_jobs():
                jobs = _executor(plan, **options).submit_array(calls)
            return str(jobs[0].job_id).split("_")[0]
        except subprocess.CalledProcessError as error:
            said = str(error.stderr or error.output or error)
            raise slurm.SlurmError(f"sbatch refused stage {plan.stage}: {said.strip().splitlines()[-1]}") from error
        except Exception as error:
            said = str(error).strip()
            passing = "Socket timed out" in said or "Unable to contact" in said
            if not passing or attempt == SUBMIT_TRIES - 1:
                lines = (
                    [line for line in said.splitlines() if "error" in line.lower()]
                    or said.splitlines()
                    or ["no message"]
                )
                raise slurm.SlurmError(f"sbatch refused stage {plan.stage}: {lines[-1]}") from error
            time.sleep(5 * 2**attempt)
    raise AssertionError


def submit(
    plan: Plan,
    cluster: Cluster,
    slots: Sequence[int],
    work_after: Sequence[str],
    final_after: Sequence[str],
    why: str,
    chunk: int,
) -> Attempt:
    """Submit `slots` of a plan as arrays of at most `chunk` elements, and the finaliser that follows all of them.

    work_after: dependency of each array, such as `afterok:12` or `aftercorr:34`, or one for all. final_after: ids that
    the finaliser waits for beside the arrays. Returns the attempt, which is also written to `attempts/`.
    """
    size = plan.resources
    number = len(attempts.read(plan.path)) + 1
    arrays = []
    for start in range(0, len(slots), chunk):
        part = tuple(slots[start : start + chunk])
        after = work_after[start // chunk] if len(work_after) > 1 else work_after[0]
        options = script_options(plan, cluster, size, after, "work")
        arrays.append(Array(_send(plan, options, [Worker(str(plan.path), slot) for slot in part]), part))
    waits = ":".join(["afterany", *(a.job for a in arrays), *final_after])
    small = cluster.resources("small", f"{plan.stage}.finaliser")
    options = script_options(plan, cluster, small, waits, "finaliser")
    finaliser = _send(plan, options, [Finaliser(str(plan.path))])
    made = Attempt(number, why, tuple(arrays), finaliser, ";".join(work_after), size.model_dump())
    attempts.write(plan.path, made)
    keep_script(plan, arrays[0].job if arrays else finaliser)
    return made


def keep_script(plan: Plan, job: str) -> None:
    """`job.sbatch`: the script as it was submitted, where a person looks for it."""
    for name in (plan.path / "submitit").glob(f"{job}*_submission.sh"):
        (plan.path / "job.sbatch").write_text(name.read_text())


def render(plan: Plan, cluster: Cluster, dependency: str = "") -> str:
    """The script that would be submitted for the plan's tasks, without submitting it."""
    from submitit.slurm.slurm import _make_sbatch_string

    options = script_options(plan, cluster, plan.resources, dependency, "work")
    folder = plan.path / "submitit"
    command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    count = len(plan.tasks) if len(plan.tasks) > 1 else None
    return _make_sbatch_string(command=command, folder=Path(folder), map_count=count, **options)
