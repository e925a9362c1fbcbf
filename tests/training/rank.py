"""One rank of a kind, in a process of its own that `ranks.start` forks off a server with the libraries loaded."""

import importlib
import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("DS_ACCELERATOR", "cpu")

from diagcot.training.distributed import process_group  # noqa: F401  quietly loads torch and transformers

import deepspeed  # noqa: F401  isort: skip
import peft  # noqa: F401  isort: skip


def stop_at(ctx: Any, count: int, row: dict[str, Any]) -> None:
    """Ask the unit to stop when so much is done."""
    if row["done"] >= count:
        ctx.stop.set()


def main(job: dict[str, Any], environment: dict[str, str], log: Path) -> None:
    """Run `job`; both streams go to `log`."""
    started = time.monotonic()
    os.environ.update(environment)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    from diagcot.jobs import Unit
    from diagcot.jobs.testing import context, run_unit
    from diagcot.training.data import collator
    from tests.training import images

    if job.get("drawn", True):
        collator.ShardImages = images.DrawnImages  # type: ignore[misc,assignment]
    kind = importlib.import_module(job["kind"])
    print(f"imports {time.monotonic() - started:.1f} s", flush=True)
    ranks = {"rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"]), "cpus": 1}
    ranks["attempt"] = job["attempt"]
    ranks |= {"local_rank": ranks["rank"], "local_world_size": ranks["world_size"]}
    if job.get("nodes"):  # each rank as the only one of its node
        ranks |= {"node_rank": ranks["rank"], "nodes": job["nodes"], "local_rank": 0, "local_world_size": 1}
    # Further stages of the same process, each with its own changes: one start of the ranks serves them all.
    port = int(os.environ["MASTER_PORT"])
    for index, (stage, changes) in enumerate({job["stage"]: {}, **job.get("further", {})}.items()):
        os.environ["MASTER_PORT"] = str(port + index)  # the store of the last one may still listen
        settings = job["settings"] | changes
        ctx = context(Path(job["root"]), settings, inputs=job["inputs"], stage=stage, **ranks)
        signal.signal(signal.SIGUSR2, lambda *_, ctx=ctx: ctx.stop.set())  # as the worker does
        if stop := job.get("stop_after"):
            ctx.on_progress = partial(stop_at, ctx, stop)
        result = run_unit(kind, Unit("model"), ctx)
        print(f"{'stopped' if result is None else 'done'} {stage} {time.monotonic() - started:.1f} s", flush=True)
