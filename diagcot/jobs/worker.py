"""Runs one task of a plan: the same code on a Slurm node, on a laptop, and by hand from an sbatch script."""

import importlib
import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from diagcot.jobs import slurm
from diagcot.jobs.context import Context, Result
from diagcot.jobs.errors import UserError
from diagcot.jobs.files import write_json
from diagcot.jobs.ledger import done_keys, publish
from diagcot.jobs.plan import Plan, read
from diagcot.jobs.ranks import Ranks, address, from_environment

WARNING = signal.SIGUSR2  # as submitit asks of sbatch --signal


@dataclass(frozen=True)
class Worker:
    """What submitit pickles: a stage's folder and a task's number, nothing else."""

    stage_dir: str
    slot: int

    def __call__(self) -> str:
        return work(Path(self.stage_dir), self.slot)


def work(stage_dir: Path, slot: int) -> str:
    """Run the units of task `slot` that are not done. Returns "done" or "parked".

    Parked means that a warning signal came first; on Slurm this element, and no other, has then been requeued.
    Raises what the kind raised, after writing it to `failed/<task>.<attempt>.json`.
    """
    os.umask(0o077)
    plan, ranks = read(stage_dir), from_environment()
    ctx = _context(plan, slot, ranks)
    _redirect(ctx)
    warned = _listen(ctx.stop)
    _distribute(ranks)
    print(
        f"{time.strftime('%F %T')} task {slot} of {plan.stage}, attempt {ctx.attempt}, on {os.uname().nodename}",
        flush=True,
    )
    try:
        state = _run(plan, slot, ctx)
    except BaseException as error:
        traceback.print_exc()
        _record_failure(ctx, error)
        raise
    print(f"{time.strftime('%F %T')} {state}", flush=True)
    if state == "parked":
        ctx.event("parked")
        # Only after a warning: a SIGTERM alone is a person's scancel, or a preemption that Slurm requeues by itself.
        if ctx.rank == 0 and warned.is_set() and "SLURM_JOB_ID" in os.environ:
            slurm.requeue(ranks.job)
    return state


def _run(plan: Plan, slot: int, ctx: Context) -> str:
    done = done_keys(plan.path)
    units = [unit for unit in plan.units_of(slot) if unit.key not in done]
    if not units:
        return "done"
    kind = importlib.import_module(plan.kind)
    started = time.time()
    ctx.event("started", units=len(units), host=os.uname().nodename)
    with kind.open(ctx) as shared:
        ready = time.time()
        for unit in units:
            if ctx.stopping():
                return "parked"
            ctx._unit, begun = unit.key, time.time()
            result: Result | None = kind.run(unit, shared, ctx)
            if result is None:
                return "parked"
            if ctx.rank == 0:
                about = {
                    "attempt": ctx.attempt,
                    "node": os.uname().nodename,
                    "started": begun,
                    "seconds": time.time() - begun,
                    "startup_seconds": (ready - started) if unit is units[0] else 0.0,
                    "gpu_seconds": (time.time() - (started if unit is units[0] else begun)) * ctx.gpus * ctx.world_size,
                }
                if not publish(plan.path, unit.key, result.outputs, result.counts, about):
                    ctx.event("lost", unit=unit.key, why="another execution of this unit published first")
    return "done"


def _context(plan: Plan, slot: int, ranks: Ranks) -> Context:
    size = plan.resources
    made = Context(
        run=plan.run,
        stage=plan.stage,
        settings=plan.settings,
        inputs=plan.inputs,
        output=Path(plan.output),
        workspace=Path(plan.workspace),
        stage_dir=plan.path,
        shards_root=Path(plan.shards_root),
        seed=plan.seed,
        task=f"{slot:05d}",
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
    for folder in (made.output, made.workspace, made.stage_dir / "out"):
        folder.mkdir(parents=True, exist_ok=True)
    return made


def _redirect(ctx: Context) -> None:
    """Each attempt and rank has a log of its own; no attempt overwrites the evidence of an earlier one."""
    suffix = f".r{ctx.rank}" if ctx.rank else ""
    log = ctx.stage_dir / "out" / f"{ctx.task}.{ctx.attempt}{suffix}.log"
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)


def _listen(stop: threading.Event) -> threading.Event:
    """Set `stop` at any signal that asks to end; the event returned is set by the warning signal only."""
    warned = threading.Event()

    def hear(signum: int, frame: FrameType | None) -> None:
        os.write(1, f"{signal.Signals(signum).name}: stopping at the next safe point\n".encode())
        stop.set()
        if signum == WARNING:
            warned.set()

    for number in (WARNING, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, hear)
    signal.signal(signal.SIGCONT, signal.SIG_IGN)
    owner = os.environ.get("DIAGCOT_OWNER")
    if owner:  # the laptop's runner: without it nobody would hear of this task's end
        threading.Thread(target=_follow, args=(int(owner), stop), daemon=True).start()
    return warned


def _follow(owner: int, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            os.kill(owner, 0)
        except ProcessLookupError:
            stop.set()
        time.sleep(1)


def _distribute(ranks: Ranks) -> None:
    """The variables that torch.distributed and DeepSpeed read."""
    os.environ.update(
        MASTER_ADDR=ranks.master_addr if ranks.nodes == 1 else address(ranks.master_addr),
        MASTER_PORT=str(ranks.master_port),
        RANK=str(ranks.rank),
        WORLD_SIZE=str(ranks.world_size),
        LOCAL_RANK=str(ranks.local_rank),
        LOCAL_SIZE=str(ranks.local_world_size),
        LOCAL_WORLD_SIZE=str(ranks.local_world_size),
    )


def _record_failure(ctx: Context, error: BaseException) -> None:
    frames = traceback.extract_tb(error.__traceback__)
    row: dict[str, Any] = {
        "task": ctx.task,
        "unit": ctx._unit,
        "attempt": ctx.attempt,
        "rank": ctx.rank,
        "host": os.uname().nodename,
        "time": time.time(),
        "type": type(error).__name__,
        "message": str(error)[:2000],
        "for_user": isinstance(error, UserError),
        "where": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-6:]],
    }
    folder = ctx.stage_dir / "failed"
    folder.mkdir(exist_ok=True)
    write_json(folder / f"{ctx.task}.{ctx.attempt}.r{ctx.rank}.json", row)
    ctx.event("failed", type=row["type"])


def clean(plan: Plan) -> None:
    """Remove what only an unfinished stage needs."""
    shutil.rmtree(plan.workspace, ignore_errors=True)
    shutil.rmtree(plan.path / "partial", ignore_errors=True)


def main(argv: list[str]) -> int:
    """`python -m diagcot.jobs.worker STAGE_DIR [SLOT]`: by hand, or in an sbatch script (slot: SLURM_ARRAY_TASK_ID)."""
    slot = int(argv[1]) if len(argv) > 1 else int(os.environ.get("SLURM_ARRAY_TASK_ID", 0))
    try:
        work(Path(argv[0]), slot)
    except UserError as error:
        print(json.dumps({"error": str(error)}), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
