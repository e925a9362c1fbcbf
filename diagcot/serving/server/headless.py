"""One server over several nodes, for models that do not fit on one node. It uses vLLM's own node ranks, without Ray.

The task has one process on each node. Rank 0 runs the API server and does the work; every other rank runs a headless
worker (`vllm serve --headless`, vllm/entrypoints/cli/serve.py) until rank 0 is done.
"""

import itertools
import time
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from diagcot.jobs import HeadlessWorkerEnded, UserError
from diagcot.jobs.execution import place, ranks
from diagcot.serving.errors import ServerError
from diagcot.serving.server.cause import first_error
from diagcot.serving.server.placement import Placement
from diagcot.serving.server.process import Process
from diagcot.serving.settings import ServerSettings
from diagcot.serving.task import ServingTask

POLL_S = 0.5


def spanning(placements: list[Placement], settings: ServerSettings, task: ServingTask) -> Placement:
    """The placement of this node's part. Raises UserError if the stage's nodes and processes do not match the settings."""
    if len(placements) > 1 or not settings.pipeline_parallel == task.nodes == task.world_size:
        raise UserError(
            f"pipeline_parallel {settings.pipeline_parallel} means one server over as many nodes: give the stage a resource"
            f" profile with `nodes: {settings.pipeline_parallel}` and `tasks_per_node: 1`, and remove data_parallel"
        )
    group = ranks.from_environment()
    master = (group.master_addr, group.master_port)
    return replace(placements[0], nodes=task.nodes, node_rank=task.node_rank, master=master)


def end_file(task: ServingTask) -> Path:
    """The file that rank 0 creates when it does not need the other nodes any more."""
    return task.workspace / f"server.{task.attempt}.over"


def run(
    model_dir: Path, settings: ServerSettings, placement: Placement, task: ServingTask, command: list[str] | None
) -> NoReturn:
    """Run this node's headless worker and restart it whenever rank 0 restarts its server.

    Raises HeadlessWorkerEnded at the end of the task, ServerError if the worker ends more often than `settings.restarts`.
    """
    folder = place.folder("s")
    for number in itertools.count():
        log = task.workspace / f"server.{task.attempt}.node{placement.node_rank}.{number}.log"
        process = Process.start_headless(model_dir, settings, placement, folder, log, command)
        try:
            while process.alive():
                if end_file(task).exists() or task.stopping():
                    raise HeadlessWorkerEnded
                time.sleep(POLL_S)
        finally:
            process.stop(settings.shutdown_timeout_s)
        if end_file(task).exists() or task.stopping():
            raise HeadlessWorkerEnded
        if number > settings.restarts:
            raise ServerError(f"the model server's worker on node {placement.node_rank} ended: {first_error(log)}")
    raise AssertionError
