"""One server over several nodes, for models that no node can hold: vLLM's own node ranks, without Ray.

The task has a process on each node. Rank 0 serves and works; the others lend their GPUs until rank 0 is done.
"""

import itertools
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from diagcot.jobs import HeadlessWorkerEnded, UserError
from diagcot.jobs.execution import ranks
from diagcot.serving.server.placement import Seat
from diagcot.serving.server.process import Process, ServerError, private_folder, told
from diagcot.serving.settings import ServerSettings

POLL_S = 0.5


def over_all(seats: list[Seat], settings: ServerSettings, ctx: Any) -> list[Seat]:
    """The seat of this node's part. Raises UserError if the task is not of that shape."""
    if len(seats) > 1 or not settings.pipeline_parallel == ctx.nodes == ctx.world_size:
        raise UserError(
            f"pipeline_parallel {settings.pipeline_parallel} is one server over as many nodes: give the stage's size"
            f" `nodes: {settings.pipeline_parallel}` and `tasks_per_node: 1`, and leave data_parallel out"
        )
    known = ranks.from_environment()
    return [replace(seats[0], nodes=ctx.nodes, node_rank=ctx.node_rank, master=(known.master_addr, known.master_port))]


def over(ctx: Any) -> Path:
    """The file that rank 0 makes when it needs the other nodes no longer."""
    path: Path = ctx.workspace / f"server.{ctx.attempt}.over"
    return path


def lend(model_dir: Path, settings: ServerSettings, seat: Seat, ctx: Any, command: list[str] | None) -> NoReturn:
    """Run this node's part, anew whenever rank 0 starts its own anew. Raises HeadlessWorkerEnded at the end of the task."""
    folder = private_folder()
    for number in itertools.count():
        log = ctx.workspace / f"server.{ctx.attempt}.node{seat.node_rank}.{number}.log"
        process = Process.lend(model_dir, settings, seat, folder, log, command)
        try:
            while process.alive():
                if over(ctx).exists() or ctx.stopping():
                    raise HeadlessWorkerEnded
                time.sleep(POLL_S)
        finally:
            process.stop(settings.shutdown_timeout_s)
        if over(ctx).exists() or ctx.stopping():
            raise HeadlessWorkerEnded
        if number > settings.restarts:
            raise ServerError(f"the part of the model server on node {seat.node_rank} ended: {told(log)}")
    raise AssertionError
