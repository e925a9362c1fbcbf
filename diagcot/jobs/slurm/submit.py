"""Submits tasks of a plan to Slurm through submitit: one sbatch an array, a finaliser after all of them.

No job is submitted twice: every sbatch has a name of its own, and after an error, or after a launcher that was killed,
the jobs of that name are looked for and adopted.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from diagcot.jobs.cluster import Cluster, Size
from diagcot.jobs.entrypoints import FinaliserEntry, TaskEntry
from diagcot.jobs.plans.plan import Plan
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.state import attempts
from diagcot.jobs.state.attempts import Array, Attempt

PATIENCE_S = 300  # how long a submission waits for a slurmctld that is away
# An sbatch that hangs is ended after this long, and its job looked for: soon enough for a job that has begun meanwhile,
# which waits a minute for the files that submitit gives it after the submission.
SBATCH_S = 45
PASSING = ("timed out", "no answer", "unable to contact", "connection", "temporarily", "communication", "status 124")
ACCEPTED = re.compile(r"^Submitted batch job (\d+)(?: on cluster \S+)?\s*$", re.MULTILINE)
PARSABLE = re.compile(r"^(\d+)(?:;\S+)?\s*$", re.MULTILINE)


def script_options(
    plan: Plan, cluster: Cluster, size: Size, dependency: str, role: str = "work", name: str = "", code: str = ""
) -> dict[str, Any]:
    """Keyword arguments for submitit's SlurmExecutor (names of its `update_parameters`)."""
    options: dict[str, Any] = {
        "job_name": name or f"{plan.run}.{plan.stage}",
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
        # Without the safe path, `python -m` would put the folder of submission before the copy of the code.
        "setup": [
            *plan.setup,
            "umask 077",
            f"export PYTHONSAFEPATH=1 PYTHONPATH={shlex.quote(code or plan.code)}",
        ],
        "use_srun": role == "work",  # the finaliser submits jobs itself, which srun's step is no place for
        "comment": f"diagcot {plan.run}/{plan.stage}",
        "additional_parameters": {
            "kill-on-invalid-dep": "yes",
            "requeue" if size.requeue else "no-requeue": True,
            **cluster.slurm.extra,
        },
    }
    return {key: value for key, value in options.items() if value is not None}


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


def submit(
    plan: Plan,
    cluster: Cluster,
    arrays: Sequence[Array],
    why: str,
    finaliser_after: str | None,
    **about: Any,
) -> Attempt:
    """Submit arrays that have no job yet, and the finaliser that follows all of them.

    finaliser_after: what it follows beside the arrays, such as `afterany:12`; None for no finaliser of their own.
    `about`: other fields of the attempt. Returns the attempt, which is also written to `attempts/`.
    Raises SlurmError if Slurm refuses, or is away for `PATIENCE_S`.
    """
    number = len(attempts.read(plan.path)) + 1
    token = _token(plan, number)
    named = tuple(
        dataclasses.replace(array, name=f"{plan.run}.{plan.stage}.{token}{index or ''}")
        for index, array in enumerate(arrays)
    )
    name = "" if finaliser_after is None else f"{plan.run}.{plan.stage}.finaliser.{token}"
    attempt = Attempt(
        number, why, named, finaliser_name=name, finaliser_after=finaliser_after or "", **{"code": plan.code} | about
    )
    attempts.intend(plan.path, attempt)
    return _complete(plan, cluster, attempt, adopt=False)


def recover(plan: Plan, cluster: Cluster) -> Attempt | None:
    """Finish the submission of a launcher that was killed: adopt the jobs that Slurm has, submit those it has not."""
    attempt = attempts.intended(plan.path)
    return None if attempt is None else _complete(plan, cluster, attempt, adopt=True)


def _token(plan: Plan, number: int) -> str:
    """The same for every try of one submission, another for every submission there ever is."""
    try:
        run = json.loads((plan.path.parent / "run.json").read_text())["uuid"]
    except (FileNotFoundError, KeyError):
        run = str(plan.path)
    return hashlib.sha256(f"{run}/{plan.stage}/{plan.created}/{number}".encode()).hexdigest()[:8]


def _complete(plan: Plan, cluster: Cluster, attempt: Attempt, adopt: bool) -> Attempt:
    made = []
    for array in attempt.arrays:
        size = Size.model_validate(array.resources)
        options = script_options(plan, cluster, size, array.after, "work", array.name, attempt.code)
        call = TaskEntry(str(plan.path), array.slots)
        made.append(dataclasses.replace(array, job=_send(plan, options, call, len(array.slots), adopt)))
    finaliser = ""
    if attempt.finaliser_name:
        waits = ",".join(filter(None, [f"afterany:{':'.join(a.job for a in made)}", attempt.finaliser_after]))
        small = cluster.resources("small", f"{plan.stage}.finaliser")
        options = script_options(plan, cluster, small, waits, "finaliser", attempt.finaliser_name, attempt.code)
        finaliser = _send(plan, options, FinaliserEntry(str(plan.path)), 1, adopt)
    done = dataclasses.replace(attempt, arrays=tuple(made), finaliser=finaliser)
    attempts.write(plan.path, done)
    keep_script(plan, (done.jobs or [""])[0])
    return done


def _executor(plan: Plan, options: dict[str, Any]) -> Any:
    import submitit  # imported late: planning and watching do without

    class Executor(submitit.SlurmExecutor):
        def send(self, count: int) -> str:
            """One sbatch, of an array if `count` > 1; returns the id. submitit's own arrays would pass by what follows."""
            self.folder.mkdir(parents=True, exist_ok=True)
            if count > 1:
                self.parameters["map_count"] = count
            return str(self._submit_command(self._submitit_command_str).job_id)

        def _make_submission_command(self, submission_file_path: Path) -> list[str]:
            """submitit's own hook: an sbatch that never answers would hold up the launcher for ever."""
            return ["timeout", "--kill-after=5", str(SBATCH_S), *super()._make_submission_command(submission_file_path)]

        @staticmethod
        def _get_job_id_from_submission_command(string: bytes | str) -> str:
            """submitit's own takes the first "job 12" that is printed, be it of a site's greeting."""
            return accepted(string if isinstance(string, str) else string.decode(errors="replace"))

    executor = Executor(folder=plan.path / "submitit")
    executor.update_parameters(**options)
    return executor


def _send(plan: Plan, options: dict[str, Any], call: Callable[[], str], count: int, adopt: bool) -> str:
    """One sbatch for `count` tasks that `call` tells apart by itself; returns the job or array id.

    adopt: look first whether Slurm has it already.
    """
    name, end, wait, said = options["job_name"], time.monotonic() + PATIENCE_S, 1.0, ""
    while True:
        try:
            # An sbatch that failed may have been accepted all the same.
            if (adopt or said) and (found := slurm.named(name)):
                slurm.cancel(found[1:])  # an answer that came very late can have left two; one is enough
                _hand_over(plan, found[0], options, call, count)
                return found[0]
            if not said or passing(said):
                with outside_of_jobs():
                    job: str = _executor(plan, options).send(count)
                _hand_over(plan, job, options, call, count)
                if said:
                    slurm.cancel([late for late in slurm.named(name) if late != job])
                return job
        except Exception as error:  # submitit raises errors of several kinds for an sbatch that fails
            said = _told(error)
            if passing(said) and time.monotonic() < end:
                time.sleep(wait)
                wait = min(2 * wait, 20)
                continue
            if not passing(said):
                continue  # refused: once more round, to see that it was not accepted
        lines = [line.strip() for line in said.splitlines() if line.strip()] or ["no message"]
        told = next((line for line in lines if "error" in line.lower()), lines[-1])
        raise slurm.SlurmError(f"sbatch refused stage {plan.stage}: {told}")


def accepted(said: str) -> str:
    """The job id in what sbatch printed, warnings and the cluster's name (`12;alpha`) aside. Raises SlurmError."""
    found = ACCEPTED.findall(said) or PARSABLE.findall(said)
    if not found:
        raise slurm.SlurmError(f"sbatch names no job: {' '.join(said.split())[:500] or 'it printed nothing'}")
    return str(found[-1])


def _told(error: Exception) -> str:
    """What a command that failed said; how it ended if it said nothing. Never empty."""
    status = getattr(error.__cause__, "returncode", "unknown")
    return str(getattr(error, "stderr", None) or error).strip() or f"sbatch ended with status {status}, without a word"


def passing(said: str) -> bool:
    """Whether this is no refusal: Slurm may take the same job later, or has taken it."""
    return any(word in said.lower() for word in PASSING)


def _hand_over(plan: Plan, job: str, options: dict[str, Any], call: Callable[[], str], count: int) -> None:
    """Give a job what submitit's worker waits for: the pickle of its call under its id.

    The elements of an array share one, linked under their own ids: submitit's own arrays have a pickle an element, which
    for thousands of them takes longer than all else together.
    """
    from submitit.core import utils

    path = utils.JobPaths(plan.path / "submitit", job).submitted_pickle
    staged = path.with_name(f".{path.name}.{os.getpid()}")  # the job may be looking for it by now
    delayed = utils.DelayedSubmission(call)
    delayed.set_timeout(options["time"], 3)
    delayed.dump(staged)
    os.replace(staged, path)
    source = str(path)
    for index in range(count if count > 1 else 0):
        element = str(path.with_name(f"{job}_{index}_submitted.pkl"))
        try:
            os.link(source, element)
        except FileExistsError:
            pass
        except OSError:  # a file has as many links as the file system gives it: on with a copy
            shutil.copyfile(source, element)
            source = element


def keep_script(plan: Plan, job: str) -> None:
    """`job.sbatch`: the script as it was submitted, where a person looks for it."""
    for name in (plan.path / "submitit").glob(f"{job}_*submission.sh"):
        (plan.path / "job.sbatch").write_text(name.read_text())


def render(plan: Plan, cluster: Cluster, dependency: str = "") -> str:
    """The script that would be submitted for the plan's tasks, without submitting it."""
    from submitit.slurm.slurm import _make_sbatch_string

    options = script_options(plan, cluster, plan.resources, dependency)
    folder = plan.path / "submitit"
    command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    count = plan.tasks if plan.tasks > 1 else None
    return str(_make_sbatch_string(command=command, folder=folder, map_count=count, **options))
