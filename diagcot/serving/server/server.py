"""The model of a task, served by one or several processes."""

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from diagcot.jobs import UserError
from diagcot.jobs.execution import place as private
from diagcot.jobs.state.files import remove
from diagcot.serving import capacity
from diagcot.serving.client.client import Client
from diagcot.serving.client.stats import ServingStats
from diagcot.serving.client.stream import WorkStream
from diagcot.serving.request import Reply, Request
from diagcot.serving.server import compile_cache, headless, warm
from diagcot.serving.server.command import eager, on_cpu
from diagcot.serving.server.endpoint import Endpoint
from diagcot.serving.server.placement import Placement, place
from diagcot.serving.server.process import Process
from diagcot.serving.server.replica import Replica
from diagcot.serving.settings import ServerSettings
from diagcot.serving.task import ServingTask

T = TypeVar("T")
R = TypeVar("R")


class Server:
    """A model and the replicas that serve it. Created by `serve`."""

    def __init__(self, replicas: Sequence[Replica | Endpoint]) -> None:
        self.replicas = replicas
        self.settings = replicas[0].settings
        self.stats = ServingStats()  # of the last `each` or `complete`

    @property
    def process(self) -> Process:
        """The process of the first replica. Raises TypeError for an endpoint, whose process is not ours."""
        first = self.replicas[0]
        if isinstance(first, Endpoint):
            raise TypeError("an endpoint has no process of ours")
        return first.process

    @property
    def generation(self) -> int:
        """Number of restarts, over all replicas."""
        return sum(replica.generation for replica in self.replicas)

    @property
    def load_s(self) -> float:
        """Seconds that the last change of weights took."""
        return max(replica.load_s for replica in self.replicas)

    def load(self, model_dir: Path) -> None:
        """Serve the weights of `model_dir` from now on. No request may be in flight unless the processes are paused.

        Weights of the same architecture are loaded into the running process, in about a tenth of a second for a small
        model. Other models need a restart. The first change in a process is verified:
        every parameter must come from the new folder. Raises ServerError if the weights cannot be loaded either way.
        """
        _in_threads(self.replicas, lambda replica: replica.load(model_dir))

    def client(self) -> Client:
        """A client of this server, for `async with` in an event loop of the caller."""
        return Client(self.replicas)

    def each(
        self,
        items: Iterable[T],
        work: Callable[[Client, T], Awaitable[R]],
        *,
        stopping: Callable[[], bool] = lambda: False,
        grace_s: float | None = None,
        progress: Callable[[ServingStats], None] | None = None,
    ) -> Generator[R]:
        """The results of `work` on each item, in the order in which they finish.

        Many items are in work at the same time. Their number follows the load of the server, and an item is pulled only
        when there is room for it. An exception in `work` is raised here and cancels the rest. When `stopping` returns True
        no more items are pulled; those in work have `grace_s` seconds (None: no limit), then they are cancelled.
        `progress` is called about each second, and at the end.

        The calling thread runs the event loop while it waits for the next result, so it must not run one already.
        """

        def report(stats: ServingStats) -> None:
            self.stats = stats
            if progress is not None:
                progress(stats)

        return WorkStream(self.client(), items, work).results(stopping, grace_s, report)

    def complete(
        self,
        requests: Iterable[Request],
        stopping: Callable[[], bool] = lambda: False,
        progress: Callable[[ServingStats], None] | None = None,
    ) -> Iterator[tuple[str, Reply]]:
        """(request id, reply) as they finish; see `each`. At a stop, requests in flight are finished and yielded."""

        async def chat(client: Client, request: Request) -> tuple[str, Reply]:
            return request.id, await client.chat(request)

        return self.each(requests, chat, stopping=stopping, progress=progress)

    def metrics(self) -> dict[str, float]:
        """The server's counters and gauges by name, summed over labels and replicas."""
        values: dict[str, float] = {}
        for line in (line for replica in self.replicas for line in replica.metrics().decode().splitlines()):
            name, _, value = line.rpartition(" ")
            if name and not line.startswith("#"):
                key = name.split("{")[0]
                values[key] = values.get(key, 0.0) + float(value)
        return values

    def close(self) -> None:
        """Drain and end the processes."""
        _in_threads(self.replicas, lambda replica: replica.close())


def _in_threads(items: Sequence[T], call: Callable[[T], R]) -> list[R]:
    """Call a function on all items at once, in threads; waits for all, then raises the first error."""
    with ThreadPoolExecutor(len(items)) as pool:
        futures = [pool.submit(call, item) for item in items]
    return [future.result() for future in futures]


@contextlib.contextmanager
def serve(
    model_dir: Path,
    settings: ServerSettings,
    task: ServingTask,
    *,
    share: tuple[int, int] = (0, 1),
    fixed_cache: bool = False,
    command: list[str] | None = None,
) -> Iterator[Server]:
    """A server of `model_dir` for the length of the block; see `Server`.

    share: share i of n of the task's GPUs, for a task that serves n different models. fixed_cache: give the KV cache its
    size beforehand (see `diagcot.serving.capacity`), where another process takes memory of the same GPUs. command: replaces
    the program of the server. If the environment names a folder of warm servers, one with the same arguments is taken from
    there and left running at the end. With `settings.pipeline_parallel` one server spans the task's nodes; on ranks other
    than 0 this raises HeadlessWorkerEnded at the end. With `settings.endpoint` the server is not ours, and `model_dir` only
    names the model.

    Raises ServerError if the server cannot be started, UserError if `model_dir` is not a model folder or does not fit the
    settings.
    """
    if settings.endpoint is not None:
        endpoint = Endpoint(settings)
        try:
            yield Server([endpoint])
        finally:
            endpoint.close()
        return
    if not (model_dir / "config.json").exists():
        raise UserError(f"{model_dir} is not a model folder (no config.json): has the stage that writes it finished?")
    placements = place(settings, 0 if on_cpu() else task.gpus, share)
    settings = capacity.fitted(settings, model_dir, placements[0], fixed_cache)
    with contextlib.ExitStack() as stack:
        if settings.pipeline_parallel > 1:
            placements = [headless.spanning(placements, settings, task)]
            if task.rank:
                headless.run(model_dir, settings, placements[0], task, command)
            stack.callback(headless.end_file(task).touch)
        started = time.monotonic()
        replicas = _start_replicas(model_dir, settings, placements, task, command, stack)
        task.startup_s += time.monotonic() - started
        yield Server(replicas)


def _start_replicas(
    model_dir: Path,
    settings: ServerSettings,
    placements: Sequence[Placement],
    task: ServingTask,
    command: list[str] | None,
    stack: contextlib.ExitStack,
) -> list[Replica]:
    """Start all replicas at once; `stack` ends those that are not warm servers."""
    lock = threading.Lock()
    replicas: list[Replica] = []
    cache = None if eager(settings) else compile_cache.cache_folder(task.workspace)
    warm_folder = os.environ.get(warm.FOLDER)

    def start(placement: Placement) -> None:
        warm_server, log = None, _log_names(task.workspace, task, placement)
        if warm_folder:
            with lock:
                warm_server = stack.enter_context(warm.acquire(Path(warm_folder), settings, placement))
            folder = warm_server.folder
            # It outlives this stage, whose workspace is removed when it is done.
            log = _log_names(task.workspace.parent / "servers", task, placement)
        else:
            folder = private.folder("s")
            stack.callback(remove, folder, folder.parent)
        replica = Replica(
            model_dir,
            settings,
            placement,
            folder,
            log,
            warm=warm_server,
            event=task.event,
            command=command,
            cache=cache,
        )
        if warm_server is None:
            stack.callback(replica.close)
        replicas.append(replica)

    _in_threads(placements, start)
    return sorted(replicas, key=lambda replica: replica.placement.index)


def _log_names(folder: Path, task: ServingTask, placement: Placement) -> Callable[[], Path]:
    """A function that returns the path of the log of the next process in this place."""
    numbers = itertools.count()
    paths = (folder / f"server.{task.attempt}.{placement.index}.{number}.log" for number in numbers)
    return lambda: next(path for path in paths if not path.exists())
