"""Runs a chain on this machine without Slurm: submitit's local executor, with a bound on the cores in use.

The runner is a process in a session of its own, so it outlives the terminal. Workers and files are those of Slurm.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

from diagcot.jobs import causes
from diagcot.jobs.cluster import Cluster
from diagcot.jobs.entrypoints import TaskEntry
from diagcot.jobs.environment import code as codes
from diagcot.jobs.environment import variables
from diagcot.jobs.environment.python import interpreter
from diagcot.jobs.errors import UserError
from diagcot.jobs.execution import place
from diagcot.jobs.plans.plan import Plan, read
from diagcot.jobs.plans.stored import stages
from diagcot.jobs.state import attempts, failures, reading
from diagcot.jobs.state.attempts import Array, Attempt
from diagcot.jobs.state.failures import LOST_PEER
from diagcot.jobs.state.files import append_line
from diagcot.jobs.state.runner import POLL_S, elsewhere, last_words, lock, process_id, report, sign
from diagcot.jobs.summary import check, summarise

GRACE_S = 20  # between the warning and the kill when the runner is asked to stop
ENDING_S = 10  # between a runner's report of its end and the end of its process, at most


@dataclass
class _Task:
    plan: Plan
    task_index: int
    job: Any
    cores: int
    attempt: str
    cancelled: bool = False  # because one of its ranks has failed


@dataclass
class Runner:
    """Starts every task whose stage is ready, on at most `cluster.parallel` cores, until nothing is left to do."""

    plans: Sequence[Plan]  # of the whole run
    cluster: Cluster
    selected: set[str]
    running: list[_Task] = field(default_factory=list)
    failed: set[str] = field(default_factory=set)
    finished: set[str] = field(default_factory=set)
    starts: dict[tuple[str, int], int] = field(default_factory=dict)
    parked: set[tuple[str, int]] = field(default_factory=set)
    stop: bool = False
    code: str = ""  # a snapshot other than the one that the stages ran last
    on_start: Callable[[], object] = bool  # called once the attempts are recorded

    def run(self) -> int:
        """Run the selected stages. Returns 0 if every stage is done, 1 if one failed, 3 if stopped on request."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._request_stop)
        for plan in self._selected():
            self._attempt(plan)
        self.on_start()
        while not self.stop:
            self._reap()
            for plan in self.plans:
                self._settle(plan)
            if all(plan.stage in self.finished | self.failed for plan in self._selected()):
                break
            started = self._start_ready()
            if not self.running and not started:
                break  # what is left follows a stage that failed
            time.sleep(POLL_S)
        self._drain()
        return 3 if self.stop else int(not all(plan.stage in self.finished for plan in self._selected()))

    def _selected(self) -> list[Plan]:
        return [plan for plan in self.plans if plan.stage in self.selected]

    def _request_stop(self, *_: Any) -> None:
        self.stop = True

    def _attempt(self, plan: Plan) -> None:
        tasks = tuple(plan.open_tasks())
        if tasks:
            (plan.path / "summary.json").unlink(missing_ok=True)  # it describes the stage as it was before
            number = attempts.newest_number(plan.path) + 1
            arrays = (Array(f"local-{os.getpid()}", tasks, resources=plan.resources.model_dump()),)
            why = "retry" if self.code else "started" if number == 1 else "the run was started again"
            attempts.write(
                plan.path, Attempt(number, why, arrays, code=self.code or attempts.last_code(plan.path, plan.code))
            )

    def _ready(self, plan: Plan, task_index: int) -> bool:
        for edge in plan.after:
            if edge.stage in self.finished:
                continue
            source = next(p for p in self.plans if p.stage == edge.stage)
            if not (edge.elementwise and source.packed_like(plan) and task_index not in source.open_tasks()):
                return False
        return True

    def _start_ready(self) -> bool:
        started = False
        for plan in self._selected():
            if plan.stage in self.finished | self.failed:
                continue
            busy = {task.task_index for task in self.running if task.plan is plan}
            for task_index in plan.open_tasks():
                cores = min(self.cluster.parallel, plan.resources.cpus * plan.resources.ranks)
                free_cores = self.cluster.parallel - sum(task.cores for task in self.running)
                if task_index not in busy and cores <= free_cores and self._ready(plan, task_index):
                    self.running.append(self._start(plan, task_index, cores))
                    started = True
        return started

    def _start(self, plan: Plan, task_index: int, cores: int) -> _Task:
        import submitit

        self.starts[plan.stage, task_index] = self.starts.get((plan.stage, task_index), 0) + 1
        count = attempts.newest_number(plan.path)
        attempt = f"{count}.{self.starts[plan.stage, task_index]}"
        os.environ.update(
            DIAGCOT_ATTEMPT=attempt,
            PYTHONSAFEPATH="1",  # import the snapshot, not the folder of submission
            PYTHONPATH=(snapshot := attempts.last_code(plan.path, plan.code)),
            **{codes.VARIABLE: snapshot},
        )
        executor = submitit.LocalExecutor(folder=plan.path / "submitit")
        size = plan.resources
        executor.update_parameters(
            timeout_min=size.minutes,
            tasks_per_node=size.ranks,
            gpus_per_node=size.gpus * size.ranks,
            signal_delay_s=min(self.cluster.warning_seconds, size.minutes * 30),
            stderr_to_stdout=True,
        )
        return _Task(plan, task_index, executor.submit(TaskEntry(str(plan.path), task_index)), cores, attempt)

    def _reap(self) -> None:
        for task in self.running:
            # Without srun nobody else ends the ranks that wait for a failed one.
            name = f"{task.task_index:05d}.{task.attempt}-*.json"
            if task.plan.resources.ranks > 1 and not task.cancelled and any((task.plan.path / "failed").glob(name)):
                task.cancelled = True
                task.job.cancel()
        for task in [task for task in self.running if task.job.done()]:
            self.running.remove(task)
            plan, task_index = task.plan, task.task_index
            if task_index in plan.open_tasks() and not self.stop:
                self._ended_short(plan, task_index)

    def _ended_short(self, plan: Plan, task_index: int) -> None:
        """A task ended with units left: it runs again, unless it would fail in the same way."""
        attempt = f"{attempts.newest_number(plan.path)}."
        first: dict[str, dict[str, Any]] = {}  # execution -> what the first of its ranks to fail raised
        for row in failures.read(plan.path):
            if row["task"] == f"{task_index:05d}" and row["attempt"].startswith(attempt) and row["type"] != LOST_PEER:
                first.setdefault(row["attempt"], row)
        if causes.is_hopeless(list(first.values())) or self.starts[plan.stage, task_index] >= self.cluster.max_attempts:
            self.failed.add(plan.stage)

    def _settle(self, plan: Plan) -> None:
        if plan.stage in self.finished or any(task.plan is plan for task in self.running):
            return
        if plan.stage in self.failed:
            if not (plan.path / "summary.json").exists():
                summarise(plan, check(plan))
        elif not plan.missing() and not check(plan):
            if not (plan.path / "summary.json").exists():
                summarise(plan, [])
            self.finished.add(plan.stage)

    def _drain(self) -> None:
        for task in self.running:
            task.job._process.send_signal(signal.SIGTERM)  # submitit's controller passes it on to every rank
        end = time.monotonic() + GRACE_S
        while any(not task.job.done() for task in self.running) and time.monotonic() < end:
            time.sleep(POLL_S)
        for task in self.running:
            if not task.job.done():
                task.job.cancel()


def start(run_dir: Path, stages: Sequence[str], code: str = "") -> int | None:
    """Start a runner in a session of its own; returns its process id, or None if one is running already.

    The runner inherits the lock, so that it counts as running at once. This returns when the runner has begun.
    code: a snapshot for these stages other than the one that they ran last. Raises UserError if it ends before.
    """
    import subprocess

    lock_file = _lock_after_end(run_dir)
    if lock_file is None:
        return None
    with lock_file, reading.File(run_dir / "runner.log", "a") as log:
        (run_dir / "runner.json").unlink(missing_ok=True)
        command = [
            interpreter(),
            "-m",
            "diagcot.jobs.execution.local",
            str(run_dir),
            *stages,
            f"--lock={lock_file.fileno()}",
        ]
        begun, tell = os.pipe()
        command.append(f"--tell={tell}")
        if code:
            command.append(f"--code={code}")
        plans = [read(run_dir / name) for name in stages]
        names = variables.named(Cluster.read(run_dir).model_dump(), [plan.settings for plan in plans])
        snapshot = code or attempts.last_code(plans[0].path, plans[0].code)
        values = {"PYTHONPATH": snapshot, codes.VARIABLE: snapshot}
        environment = variables.outside_job(variables.child(*names, **values))
        if line := variables.sentence(sorted(set(os.environ) - set(environment))):
            append_line(run_dir / "runner.log", line)
        child = subprocess.Popen(
            command,
            env=environment,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[lock_file.fileno(), tell],
        )
        sign(lock_file, child.pid)
    os.close(tell)
    try:
        with open(begun, "rb") as word:  # noqa: PTH123  (a pipe)
            told = word.read(1)
    except BaseException:  # Ctrl-C: whoever is not told that it began shall not find it working
        child.terminate()
        raise
    if not told:
        child.wait()
        raise UserError(f"run {run_dir.name} was not started: {last_words(run_dir)}")
    return child.pid


def _lock_after_end(run_dir: Path) -> IO[str] | None:
    """The right to run the chain; None while a runner has it. One that has reported its end is waited for."""
    end = time.monotonic() + ENDING_S
    while (held := lock(run_dir)) is None and (run_dir / "runner.json").exists() and time.monotonic() < end:
        time.sleep(POLL_S)
    return held


def worked_on(run_dir: Path, plan: Plan) -> bool:
    """Whether the runner that is alive works on the stage, or will: it was started for it, and the stage has not failed."""
    newest = attempts.read(plan.path)[-1:]
    ours = f"local-{process_id(run_dir)}"
    return (
        any(array.job == ours for attempt in newest for array in attempt.arrays)
        and not (plan.path / "summary.json").exists()
    )


def stop(run_dir: Path, deadline_s: float = GRACE_S + 10) -> bool:
    """Ask the runner to stop and wait for it, at most `deadline_s` seconds. Returns False if there was none.

    Raises UserError if it has not ended by then, or was started on another machine.
    """
    pid = process_id(run_dir)
    if pid is None:
        if host := elsewhere(run_dir):
            raise UserError(f"the runner of run {run_dir.name} was started on {host}: stop it there")
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + deadline_s
    while process_id(run_dir) == pid:
        if time.monotonic() > end:
            raise UserError(
                f"run {run_dir.name}: its runner (process {pid}) was asked to stop and has not ended after"
                f" {deadline_s:.0f} s: wait, or end it with `kill -9 {pid}`"
            )
        time.sleep(POLL_S)
    return True


def main(argv: list[str]) -> int:
    """Run the stages of a run whose plans are written. Returns 0 if all are done.

    `python -m diagcot.jobs.execution.local RUN_DIR STAGE... [--lock=…] [--tell=…] [--code=…]`
    """
    os.umask(0o077)
    try:
        return _main(argv)
    except OSError as error:  # the logs' own disk is full or read-only: `status` finds that out by itself
        print(f"error: {reading.sentence(error)}", file=sys.stderr, flush=True)
        return 1


def _main(argv: list[str]) -> int:
    run_dir, snapshot = Path(argv[0]), ""
    on_start: Callable[[], object] = bool
    if argv[-1].startswith("--code="):
        snapshot = argv.pop().removeprefix("--code=")
    if argv[-1].startswith("--tell="):  # `start` waits for it
        on_start = partial(_tell, int(argv.pop().removeprefix("--tell=")))
    if argv[-1].startswith("--lock="):  # `start` holds it already for this process
        inherited = int(argv.pop().removeprefix("--lock="))
        os.set_inheritable(inherited, False)
    else:
        lock_file = lock(run_dir)
        if lock_file is None:
            return 0
    cluster = Cluster.read(run_dir)
    names = stages(run_dir)
    plans = [read(run_dir / name) for name in names if (run_dir / name / "plan.json").exists()]
    append_line(run_dir / "runner.log", f"{time.strftime('%F %T')} runner {os.getpid()}: {' '.join(argv[1:])}")
    runner = Runner(plans, cluster, set(argv[1:]) or set(names), code=snapshot, on_start=on_start)
    code, why = 1, ""
    pid = str(os.getpid())
    owners = {"DIAGCOT_OWNER": pid, "DIAGCOT_STANDBY_OWNER": pid}
    try:
        codes.require_own()
        with place.opened(cluster.scratch):
            # Where tasks of this run may leave a server for the next one.
            owners["DIAGCOT_STANDBY"] = str(place.folder("w"))
            os.environ.update(owners)  # for the tasks; not for whatever this process does after the run
            code = runner.run()
    except UserError as error:
        why = str(error)
    except OSError as error:  # of a disk or a limit: the run's own files may not be able to say it
        why = reading.sentence(error)
    finally:
        for name in owners:
            os.environ.pop(name, None)
        try:
            report(run_dir, code, sorted(runner.failed), why)
        except OSError as error:  # without a report the screens say that the runner died
            why = why or reading.sentence(error)
    if why:
        with contextlib.suppress(OSError):  # the disk of the log may be the one that is full
            print(f"error: {why}", file=sys.stderr, flush=True)
    return code


def _tell(handle: int) -> None:
    os.write(handle, b"1")
    os.close(handle)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
