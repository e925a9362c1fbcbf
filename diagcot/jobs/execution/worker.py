"""Runs one task of a plan: on a Slurm node, on a laptop, or by hand."""

import contextlib
import faulthandler
import importlib
import json
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from diagcot.jobs.cluster import Cluster, Size
from diagcot.jobs.environment import code
from diagcot.jobs.errors import UserError
from diagcot.jobs.execution import copies, place
from diagcot.jobs.execution.context import Context, HeadlessWorkerEnded, Result
from diagcot.jobs.execution.ranks import Ranks, from_environment
from diagcot.jobs.plans.plan import Plan, read, require_own_folders
from diagcot.jobs.plans.units import Unit
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.slurm.sbatch import SIZE
from diagcot.jobs.state import documents, failures, reading
from diagcot.jobs.state.failures import INTERRUPTED, LOST_PEER, PARKED
from diagcot.jobs.state.files import private_folder, write_json
from diagcot.jobs.state.ledger import done_keys, publish, settle
from diagcot.jobs.state.processes import allow_open_files, is_alive
from diagcot.jobs.state.progress import Progress, last_report
from diagcot.jobs.summary import LAG_S

WARNING = signal.SIGUSR2  # as submitit asks of sbatch --signal
GRACE_S = 120  # how long after the announced end of a preempted job Slurm may take to end it
STUCK = 3  # executions that reach the time limit without progress before the task is stopped
HUNG = 3  # executions that hang before the task is stopped
# What gloo and NCCL report when another rank has ended.
_GONE = re.compile(r"Connection (reset|closed) by peer|Broken pipe|remote process exited")
EARLY_S = 65  # sbatch --signal may come up to 60 s early (sbatch manual page)


class UpstreamIncomplete(Exception):
    """A job ran although what it follows is not done: slurmctld lost a dependency, or was given none."""


def work(stage_dir: Path | str, task_index: int) -> str:
    """Run the units of a task that are not done. Returns "done" or "parked".

    Parked means that a warning signal came first; on Slurm this element, and no other, has then been requeued.
    Raises what the kind raised, after it was written to `failed/`.
    """
    os.umask(0o077)
    allow_open_files()
    plan = _with_own_size(read(Path(stage_dir)))
    ranks = replace(from_environment(), task=f"{stage_dir}/{task_index:05d}")
    ctx = _context(plan, task_index, ranks)
    debugged = "DIAGCOT_DEBUG" in os.environ  # a person uses this terminal and its Ctrl-C
    if not debugged:
        _redirect(ctx)
    warned = threading.Event() if debugged else _listen(ctx.stop)
    ranks.export()
    watchdog = Watchdog(ctx, 0 if debugged else plan.resources.hang_minutes * 60, ranks)
    try:
        print(
            f"{time.strftime('%F %T')} task {task_index} of {plan.stage}, attempt {ctx.attempt}, on {os.uname().nodename}",
            flush=True,
        )
        _announce(ctx, task_index)
        before, began = _progress(plan, task_index), time.monotonic()
        code.require_own()
        await_upstream(plan, task_index)
        try:
            scratch, copied_to = _node_folders(plan)
            with copies.opened(copied_to), place.opened(scratch):
                state = _run(plan, task_index, ctx)
        except HeadlessWorkerEnded:
            state = "done"
        if state == "parked" and ctx.rank == 0 and warned.is_set():
            at_limit = time.monotonic() - began >= plan.resources.minutes * 30 - EARLY_S
            _count_stuck(ctx, at_limit and not _progress(plan, task_index).exceeds(before))
    except BaseException as error:
        if not debugged:  # there whoever started it prints it
            with contextlib.suppress(OSError):  # the log may be the file that takes no more
                traceback.print_exc()
        _record_failure(ctx, error)
        raise
    finally:
        watchdog.stop()
    print(f"{time.strftime('%F %T')} {state}", flush=True)
    if state == "parked":
        ctx.event("parked")
        if ctx.rank == 0 and "SLURM_JOB_ID" in os.environ and not debugged:
            _leave(ranks.job, warned.is_set())
    elif ranks.restarts and ctx.rank == 0 and not debugged:
        _end(ranks.job)
    return state


def _with_own_size(plan: Plan) -> Plan:
    """The plan with the resources of this job, which those of the plan may differ from: see `diagcot.jobs.slurm.sbatch`."""
    own = os.environ.get(SIZE, "")
    return replace(plan, resources=Size.model_validate_json(own)) if own else plan


def _announce(ctx: Context, task_index: int) -> None:
    """Say which process works on the task, for the screens: its start may take minutes, without a word in its log."""
    before = last_report(ctx.stage_dir, task_index) or {}
    ctx.progress(before.get("done", 0))  # not less than before: a task that makes no progress is recognised by it
    ctx._written = 0.0  # the next report may follow at once


def _node_folders(plan: Plan) -> tuple[str, str]:
    """The cluster's folder for temporary files, and that for copies of shards; empty where there is none."""
    run_dir = plan.path.parent
    if not (run_dir / "cluster.yaml").exists():
        return "", ""
    cluster = Cluster.read(run_dir)
    return cluster.scratch, cluster.shards_copied_to(plan.resources)


def _leave(job: str, warned: bool) -> None:
    """End a parked execution so that the task runs exactly once more, or not at all if a person has cancelled it.

    warned: the warning signal came, not SIGTERM alone. A job that is preempted leaves it to Slurm to requeue it, because it
    would be requeued a second time if it did so itself: it ends, or waits for its end, as the version of Slurm needs it.
    """
    row = _own_record(job)
    if row.get("JobState", "RUNNING") != "RUNNING":
        return  # Slurm is ending it, and knows why
    if row.get("PreemptTime", "None") != "None":
        print(f"{time.strftime('%F %T')} preempted: Slurm requeues this job", flush=True)
        if slurm.requeues_what_ends_early():
            sys.exit(INTERRUPTED)
        _await_end(row.get("EndTime", ""))
    if warned:
        _requeue(job)
    else:
        sys.exit(INTERRUPTED)


def _end(job: str) -> None:
    """Let a requeued execution that is done be the last one, where Slurm would run the task again for nothing."""
    with contextlib.suppress(slurm.SlurmError):  # it would find everything done
        if slurm.requeues_what_ended_well():
            slurm.never_requeue(job)


def _own_record(job: str) -> dict[str, str]:
    """What scontrol shows of this job; empty where it cannot be asked."""
    try:
        return slurm.show("job", job)[0]
    except (slurm.SlurmError, IndexError):
        return {}


def _await_end(announced: str) -> None:
    """Wait until some time after a job's announced end, such as 2026-01-31T22:00:00."""
    try:
        end = time.mktime(time.strptime(announced, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        end = time.time()
    while time.time() < end + GRACE_S:
        time.sleep(1)


def _requeue(job: str) -> None:
    """Requeue this element; if Slurm refuses, exit with `PARKED`, so that the finaliser resubmits it."""
    try:
        slurm.requeue(job)
    except slurm.SlurmError as error:
        print(f"not requeued: {error}", flush=True)
        sys.exit(PARKED)


def _progress(plan: Plan, task_index: int) -> Progress:
    return plan.progress(task_index).get(task_index, Progress())


def _count_stuck(ctx: Context, stuck: bool) -> None:
    """Count executions up to the time limit without progress. Raises UserError after `STUCK` in a row."""
    path = ctx.stage_dir / "stuck" / f"{ctx.task}.json"
    times = 1 + documents.find(path, documents.STUCK).get("times", 0) if stuck else 0
    if times >= STUCK:
        path.unlink()
        raise UserError(
            f"task {ctx.task} reached its time limit {times} times without finishing one more record or checkpoint:"
            f" make retry RUN={ctx.run} STAGE={ctx.stage} TIME=<minutes>"
        )
    if times or path.exists():
        path.parent.mkdir(exist_ok=True)
        write_json(path, {"times": times})


def await_upstream(plan: Plan, task_index: int) -> None:
    """Raise UpstreamIncomplete if a unit that this task follows is not done; files of other nodes may appear late."""
    end = time.monotonic() + LAG_S
    for edge in plan.after:
        source = read(plan.path.parent / edge.stage)
        elementwise = edge.elementwise and source.packed_like(plan)
        keys = set(source.keys_of(task_index) if elementwise else source.keys)
        # A whole stage was settled by its finaliser; a partner may have been killed just before its last rename.
        while missing := keys - done_keys(source.path) or {k for k in keys if elementwise and settle(source.path, k)}:
            if time.monotonic() > end:
                raise UpstreamIncomplete(f"{len(missing)} units of {edge.stage}, which this task follows, are not done")
            time.sleep(1)


class Watchdog:
    """Ends a task that gives no sign of life: writes every thread's stack to the log, then requeues its element."""

    def __init__(self, ctx: Context, limit_s: float, ranks: Ranks) -> None:
        self._ctx, self._limit, self._ranks = ctx, limit_s, ranks
        self._over = threading.Event()
        if limit_s:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Stop watching."""
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(min(5.0, self._limit / 4)):
            if self._ctx.silent_s > self._limit:
                self._end_task()
                return

    def _end_task(self) -> None:
        print(f"no sign of life for {self._ctx.silent_s:.0f} s; the stacks of all threads:", flush=True)
        faulthandler.dump_traceback(2, all_threads=True)
        self._ctx.event("hung")
        if self._ctx.rank:  # rank 0, which waits for this one, ends the task
            return
        try:
            if "SLURM_JOB_ID" not in os.environ or self._ranks.restarts + 1 >= HUNG:
                raise TimeoutError(
                    f"no sign of life for {self._ctx.silent_s:.0f} s (hang_minutes); its log has the stacks"
                )
            slurm.requeue(self._ranks.job)
        except Exception as error:
            _record_failure(self._ctx, error)
        os._exit(1)


def _run(plan: Plan, task_index: int, ctx: Context) -> str:
    done = done_keys(plan.path)
    for key in plan.keys_of(task_index):
        if key in done:
            settle(plan.path, key)
    units = ctx.units = tuple(unit for unit in plan.units_of(task_index) if unit.key not in done)
    if not units:  # a job that Slurm requeued late makes no folder again that the end of the stage has removed
        return "done"
    for folder in (ctx.output, ctx.workspace):
        private_folder(folder)
    started = time.time()
    ctx.event("started", units=len(units), host=os.uname().nodename)
    with _open(plan.kind, ctx) as (run, shared):
        ready = time.time()
        for unit in units:
            if ctx.stopping():
                return "parked"
            ctx._unit, began, ctx.startup_s = unit.key, time.time(), 0.0  # start-up is measured separately
            result = run(unit, shared, ctx)
            if result is None:
                return "parked"
            if ctx.rank == 0:
                about = {
                    "attempt": ctx.attempt,
                    "node": os.uname().nodename,
                    "started": began + ctx.startup_s,
                    "seconds": time.time() - began - ctx.startup_s,
                    "startup_seconds": ctx.startup_s + (ready - started if unit is units[0] else 0.0),
                }
                if not publish(plan.path, unit.key, result.outputs, result.counts, about):
                    print(
                        f"unit {unit.key}: another execution published it first; the result of this one is dropped",
                        flush=True,
                    )
                    ctx.event("lost", unit=unit.key, why="another execution of this unit published first")
    return "done"


@contextlib.contextmanager
def _open(kind: str, ctx: Context) -> Iterator[tuple[Callable[[Unit, Any, Context], Result | None], Any]]:
    """A kind's `run` and what its `prepare` yields; a kind `module:function` is a function of unit and context alone."""
    name, _, function = kind.partition(":")
    module = importlib.import_module(name)
    if function:
        call = getattr(module, function)
        yield lambda unit, shared, ctx: call(unit, ctx), None
        return
    with module.prepare(ctx) as shared:
        yield module.run, shared


def _context(plan: Plan, task_index: int, ranks: Ranks) -> Context:
    require_own_folders(plan)
    size = plan.resources
    ctx = Context(
        run=plan.run,
        stage=plan.stage,
        settings=plan.settings,
        inputs=plan.inputs,
        output=plan.output,
        workspace=plan.workspace,
        stage_dir=plan.path,
        shards_root=Path(plan.shards_root),
        seed=plan.seed,
        task=f"{task_index:05d}",
        attempt=ranks.attempt,
        rank=ranks.rank,
        world_size=ranks.world_size,
        local_rank=ranks.local_rank,
        local_world_size=ranks.local_world_size,
        node_rank=ranks.node_rank,
        nodes=ranks.nodes,
        cpus=size.cpus,
        gpus=size.gpus,
    )
    private_folder(ctx.stage_dir / "out")
    return ctx


def _redirect(ctx: Context) -> None:
    """Write standard output and error to a log of this attempt and rank; no attempt overwrites an earlier log."""
    suffix = f".r{ctx.rank}" if ctx.rank else ""
    log = ctx.stage_dir / "out" / f"{ctx.task}.{ctx.attempt}{suffix}.log"
    with reading.File(log, "a") as file:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _listen(stop: threading.Event) -> threading.Event:
    """Set `stop` at any signal that asks to end; the event returned is set by the warning signal only."""
    warned = threading.Event()

    def on_signal(signum: int, frame: FrameType | None) -> None:
        os.write(1, f"{signal.Signals(signum).name}: stopping at the next safe point\n".encode())
        stop.set()
        if signum == WARNING:
            warned.set()

    for number in (WARNING, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    signal.signal(signal.SIGCONT, signal.SIG_IGN)
    owner = os.environ.get("DIAGCOT_OWNER")
    if owner:  # the laptop's runner: without it nobody would notice the end of this task
        threading.Thread(target=_follow, args=(int(owner), stop), daemon=True).start()
    return warned


def _follow(owner: int, stop: threading.Event) -> None:
    while not stop.is_set():
        if not is_alive(owner):
            stop.set()
        time.sleep(1)


def _record_failure(ctx: Context, error: BaseException) -> None:
    kind = LOST_PEER if ctx.world_size > 1 and _peer_is_gone(error) else type(error).__name__
    failures.write(ctx.stage_dir, ctx.task, ctx.attempt, ctx.rank, ctx._unit, error, kind)
    ctx.event("failed", type=kind)


def _peer_is_gone(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and _GONE.search(str(error)) is not None


def main(argv: list[str]) -> int:
    """`python -m diagcot.jobs.execution.worker STAGE_DIR [TASK_INDEX]`: by hand; the default index is SLURM_ARRAY_TASK_ID."""
    task_index = int(argv[1]) if len(argv) > 1 else int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
    try:
        work(Path(argv[0]), task_index)
    except UserError as error:
        print(json.dumps({"error": str(error)}), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
