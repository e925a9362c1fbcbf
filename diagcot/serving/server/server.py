"""The model of a task, behind one or several server processes."""

import contextlib
import itertools
import os
import shutil
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from diagcot.jobs import UserError
from diagcot.serving.client.client import Client
from diagcot.serving.client.flow import Flow, flow
from diagcot.serving.request import Reply, Request
from diagcot.serving.server import compiled, nodes
from diagcot.serving.server import warm as standby
from diagcot.serving.server.endpoint import Endpoint
from diagcot.serving.server.placement import Seat, deal
from diagcot.serving.server.process import Process, eager, on_cpu, private_folder
from diagcot.serving.server.replica import Replica
from diagcot.serving.settings import ServerSettings

T = TypeVar("T")
R = TypeVar("R")


class Server:
    """A model and the replicas that serve it. Made by `serve`."""

    def __init__(self, replicas: Sequence[Replica | Endpoint]) -> None:
        self.replicas = replicas
        self.settings = replicas[0].settings
        self.flow = Flow()  # of the last `each` or `complete`, as it was last told

    @property
    def process(self) -> Process:
        """The first replica's. Raises TypeError for an endpoint, whose process is not ours."""
        first = self.replicas[0]
        if isinstance(first, Endpoint):
            raise TypeError("an endpoint has no process of ours")
        return first.process

    @property
    def generation(self) -> int:
        """How many processes were started anew."""
        return sum(replica.generation for replica in self.replicas)

    @property
    def load_s(self) -> float:
        """Seconds that the last change of weights took."""
        return max(replica.load_s for replica in self.replicas)

    def load(self, model_dir: Path) -> None:
        """Serve the weights of `model_dir` from now on; no request may be in flight.

        Weights of the same architecture are exchanged in the running process in about a tenth of a second for a small
        model; anything else, and tied embeddings, restarts it. The first exchange in a process is verified: every
        parameter must come from the new folder. Raises ServerError if the weights cannot be loaded either way.
        """
        _all(self.replicas, lambda replica: replica.load(model_dir))

    def client(self) -> Client:
        """A client of this server, for `async with` in an event loop of one's own."""
        return Client(self.replicas)

    def each(
        self,
        items: Iterable[T],
        work: Callable[[Client, T], Awaitable[R]],
        *,
        stopping: Callable[[], bool] = lambda: False,
        grace_s: float | None = None,
        progress: Callable[[Flow], None] | None = None,
    ) -> Iterator[R]:
        """What `work` makes of each item, in the order in which they are finished.

        Many items are in work at once; their number follows what the server says of its load, and no item is pulled
        before there is room for it. An error that `work` raises is raised here, and ends the rest. When `stopping`
        returns True no further item is pulled; those in work have `grace_s` seconds (None: all they need), then they are
        cancelled. `progress` is told about each second, and at the end.

        The calling thread runs the event loop while it waits for the next result: it must not run one already.
        """

        def tell(seen: Flow) -> None:
            self.flow = seen
            if progress is not None:
                progress(seen)

        return flow(self.client(), items, work, stopping, grace_s, tell)

    def complete(
        self,
        requests: Iterable[Request],
        stopping: Callable[[], bool] = lambda: False,
        progress: Callable[[Flow], None] | None = None,
    ) -> Iterator[tuple[str, Reply]]:
        """(request id, reply) as they finish; see `each`. At a stop, what is in flight is finished and yielded."""

        async def ask(client: Client, request: Request) -> tuple[str, Reply]:
            return request.id, await client.chat(request)

        return self.each(requests, ask, stopping=stopping, progress=progress)

    def metrics(self) -> dict[str, float]:
        """The server's own counters and gauges by name, summed over labels and replicas."""
        found: dict[str, float] = {}
        for line in (line for replica in self.replicas for line in replica.metrics().decode().splitlines()):
            name, _, value = line.rpartition(" ")
            if name and not line.startswith("#"):
                key = name.split("{")[0]
                found[key] = found.get(key, 0.0) + float(value)
        return found

    def close(self) -> None:
        """Drain and end the processes."""
        _all(self.replicas, lambda replica: replica.close())


def _all(places: Sequence[T], act: Callable[[T], R]) -> list[R]:
    """`act` on all at once, in threads; every one is brought to its end, then the first error is raised."""
    with ThreadPoolExecutor(len(places)) as pool:
        futures = [pool.submit(act, place) for place in places]
    return [future.result() for future in futures]


@contextlib.contextmanager
def serve(
    model_dir: Path,
    settings: ServerSettings,
    ctx: Any,
    *,
    share: tuple[int, int] = (0, 1),
    command: list[str] | None = None,
) -> Iterator[Server]:
    """A server of `model_dir` for the length of the block; see `Server`.

    `ctx` is a Context (or has its fields that are used here). `share`: share i of n of the task's GPUs,
    for a task that serves n different models. Where the environment names a folder of standby servers, one with the
    same engine arguments is taken over from there and left running at the end.
    With `settings.pipeline_parallel` one server spans the task's nodes; on ranks other than 0 this raises
    HeadlessWorkerEnded at the end.
    With `settings.endpoint` the server is somebody else's, and `model_dir` only names the model.
    Raises ServerError if no server can be started, UserError if `model_dir` is no model folder or cannot be served so.
    """
    if settings.endpoint is not None:
        there = Endpoint(settings)
        try:
            yield Server([there])
        finally:
            there.close()
        return
    if not (model_dir / "config.json").exists():
        raise UserError(f"{model_dir} is no model folder (no config.json); has the stage that makes it finished?")
    seats = deal(settings, 0 if on_cpu() else ctx.gpus, share)
    with contextlib.ExitStack() as stack:
        if settings.pipeline_parallel > 1:
            seats = nodes.over_all(seats, settings, ctx)
            if ctx.rank:
                nodes.lend(model_dir, settings, seats[0], ctx, command)
            stack.callback(nodes.over(ctx).touch)
        lock, replicas, began = threading.Lock(), list[Replica](), time.monotonic()
        cache = None if eager(settings) else compiled.root(ctx.workspace)

        def start(seat: Seat) -> None:
            slot, log = None, _log(ctx, seat)
            shared = os.environ.get(standby.FOLDER)
            if shared:
                with lock:
                    slot = stack.enter_context(standby.borrow(Path(shared), settings, seat))
                folder, log = slot.folder, slot.log
            else:
                folder = private_folder()
                stack.callback(shutil.rmtree, folder, ignore_errors=True)
            made = Replica(
                model_dir, settings, seat, folder, log, slot=slot, event=ctx.event, command=command, cache=cache
            )
            if slot is None:
                stack.callback(made.close)
            replicas.append(made)

        _all(seats, start)
        replicas.sort(key=lambda replica: replica.seat.number)
        ctx.startup_s += time.monotonic() - began
        yield Server(replicas)


def _log(ctx: Any, seat: Seat) -> Any:
    """A function that names the log of the next process in this seat."""
    names = (ctx.workspace / f"server.{ctx.attempt}.{seat.number}.{number}.log" for number in itertools.count())
    return lambda: next(path for path in names if not path.exists())
