"""Waits for the jobs of a rehearsal; a job that cannot start is cancelled, so that the jobs behind it can start."""

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from diagcot.console.state.reasons import sentence
from diagcot.jobs import Plan, UserError
from diagcot.jobs.execution import local
from diagcot.jobs.slurm import cancellation
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.state import runner
from diagcot.preflight.finding import Finding, bad
from diagcot.preflight.rehearsal.chain import MINUTES, Rehearsal
from diagcot.preflight.rehearsal.rows import Row, complete, of_stage, read

POLL_S = 1.0
OVERTIME_S = 300  # a job may take this long to end after its time limit; after that its node is lost
LAG_S = 10  # how long files that a job wrote last on another node may take to be visible here
PENDING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD")
WAITING = ("Dependency", "BeginTime", "None", "")
# Reasons that never pass by waiting (squeue manual page, JOB REASON CODES).
HOPELESS = (
    "AccountNotAllowed",
    "BadConstraints",
    "InvalidAccount",
    "InvalidQOS",
    "JobHeldAdmin",
    "JobHeldUser",
    "PartitionNodeLimit",
    "PartitionTimeLimit",
    "QOSNotAllowed",
    "launch failed requeued held",
)

Report = Callable[[str], None]


def wait(rehearsal: Rehearsal, patience_s: float, report: Report) -> None:
    """Wait until every job has ended or is given up, and add their rows. report: called with a line of progress."""
    if rehearsal.chain.cluster.executor == "local":
        _wait_here(rehearsal, report)
    else:
        Waiting(rehearsal, patience_s, report).run()


def stop(rehearsal: Rehearsal) -> None:
    """Cancel what is still queued or running."""
    if rehearsal.chain.cluster.executor == "local":
        local.stop(rehearsal.run_dir)
    elif rehearsal.run_dir.exists():
        cancellation.cancel(rehearsal.run_dir)


def _wait_here(rehearsal: Rehearsal, report: Report) -> None:
    """Wait for the runner of this machine until it has written its result or has ended."""
    total = len(rehearsal.plans)

    def show() -> None:
        over = sum(complete(plan, read(plan)) for plan in rehearsal.plans)
        report(f"rehearsed {over} of {total} stages")

    with contextlib.suppress(UserError):  # a runner that died: the rows say what is missing
        runner.wait(rehearsal.run_dir, show, POLL_S)
    for plan in rehearsal.plans:
        rehearsal.rows += of_stage(plan)
    report(f"rehearsed {total} of {total} stages")


@dataclass
class Waiting:
    """The state of waiting for Slurm's jobs."""

    rehearsal: Rehearsal
    patience_s: float
    report: Report
    since: dict[str, float] = field(default_factory=dict)  # stage -> when it could have started first
    started: dict[str, float] = field(default_factory=dict)

    def run(self) -> None:
        """Look at the queue until no job is left to wait for."""
        waiting = {plan.stage: plan for plan in self.rehearsal.plans if plan.stage in self.rehearsal.jobs}
        answered = time.monotonic()
        while waiting:
            try:
                queued = {job.id: job for job in slurm.queue()}
                answered = time.monotonic()
            except slurm.SlurmError:
                if time.monotonic() - answered > self.patience_s:
                    raise
                time.sleep(POLL_S)
                continue
            for stage, plan in list(waiting.items()):
                job = queued.get(self.rehearsal.jobs[stage])
                if job is None:
                    del waiting[stage]
                    self._ended(plan)
                elif problem := self._hopeless(stage, job):
                    del waiting[stage]
                    slurm.cancel([job.id])
                    self.rehearsal.rows.append(Row(stage, problem))
            self.report(self._line(waiting, queued))
            if waiting:
                time.sleep(POLL_S)

    def _ended(self, plan: Plan) -> None:
        """Add the rows of a job that has left the queue, once its files are visible here."""
        end = time.monotonic() + LAG_S
        while not complete(plan, read(plan)) and time.monotonic() < end:
            time.sleep(POLL_S)
        ended = "" if complete(plan, read(plan)) else self._state(plan)
        self.rehearsal.rows += of_stage(plan, ended)

    def _state(self, plan: Plan) -> str:
        try:
            job = slurm.history([self.rehearsal.jobs[plan.stage]]).get(self.rehearsal.jobs[plan.stage])
        except slurm.SlurmError:  # no accounting
            return ""
        if job is None or not job.name.startswith(f"{plan.run}."):  # job ids may be used again
            return ""
        return job.state + (f", exit code {job.exit}" if job.state == "FAILED" else "")

    def _hopeless(self, stage: str, job: slurm.Job) -> Finding | None:
        """Why the job is given up; None to go on waiting."""
        now, reason = time.monotonic(), job.reason.strip("()")
        if job.state not in PENDING:
            began = self.started.setdefault(stage, now)
            if now - began > MINUTES * 60 + OVERTIME_S:
                text = f"is still {job.state} {(now - began) / 60:.0f} minutes after it began"
                return bad("job", text, f"its node {job.nodes} does not end it: see `sinfo -R`, ask the administrators")
            return None
        if reason in WAITING:
            self.since.pop(stage, None)
            return None
        began = self.since.setdefault(stage, now)
        if reason.split(",")[0] in HOPELESS:
            return bad("start", f"it can never start: {sentence(reason)}")
        if now - began > self.patience_s:
            text = f"did not start within {self.patience_s / 60:g} min: {sentence(reason)}"
            return bad("start", text, "its checks did not run; PATIENCE=minutes waits longer")
        return None

    def _line(self, remaining: Mapping[str, Plan], queued: Mapping[str, slurm.Job]) -> str:
        total = len(self.rehearsal.jobs)
        parts = [f"rehearsed {total - len(remaining)} of {total} stages"]
        jobs = [(stage, queued[self.rehearsal.jobs[stage]]) for stage in remaining]
        running = [stage for stage, job in jobs if job.state not in PENDING]
        waiting = [f"{s} ({j.reason})" for s, j in jobs if j.state in PENDING and j.reason not in WAITING]
        parts += [f"running: {', '.join(running)}"] if running else []
        parts += [f"waiting: {', '.join(waiting)}"] if waiting else []
        return "; ".join(parts)
