"""A model server for the length of a task: started, kept alive, switched to other weights, drained at the end."""

import asyncio
import contextlib
import itertools
import os
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx

from diagcot.jobs.errors import UserError
from diagcot.serving import standby, weights
from diagcot.serving.client import Client
from diagcot.serving.process import Process, ServerError, arguments, connect, healthy, private_folder, told
from diagcot.serving.request import Reply, Request
from diagcot.serving.settings import ServerSettings


class Server:
    """One vLLM server and its weights. Made by `serve`."""

    def __init__(
        self,
        model_dir: Path,
        settings: ServerSettings,
        gpus: int,
        folder: Path,
        log: Callable[[], Path],
        *,
        slot: standby.Slot | None = None,
        event: Callable[..., None] | None = None,
        command: list[str] | None = None,
    ) -> None:
        self.settings, self.folder, self.model_dir = settings, folder, model_dir
        self.generation = 0  # how many processes this server has had, less one
        self.load_s = 0.0  # seconds that the last change of weights took
        self._gpus, self._log, self._slot, self._command = gpus, log, slot, command
        self._event = event or (lambda *_, **__: None)
        self._lock = threading.RLock()
        self._failures = 0  # restarts since the last reply
        self._verified = False  # whether a change of weights was checked in this process
        if slot and slot.process:
            self.process, self._architecture, self._stamp = slot.process, slot.architecture, ()
            self.load(model_dir)
        else:
            self._start(model_dir)

    def _start(self, model_dir: Path) -> None:
        self._stamp = weights.stamp(model_dir)
        self._architecture = weights.architecture(model_dir)
        self.model_dir, self._verified = model_dir, False
        owner = self._slot.owner if self._slot else None
        self.process = Process.start(
            model_dir, self.settings, self._gpus, self.folder, self._log(), owner, self._command
        )
        self._event("server_ready", seconds=round(self.process.ready_s, 2))
        if self._slot:
            self._slot.record(self.process, self._architecture)

    def revive(self, generation: int) -> None:
        """Return when a healthy server answers; a process of `generation` that is dead or hangs is replaced.

        Raises ServerError after `settings.restarts` restarts in a row without a reply in between.
        """
        with self._lock:
            if generation != self.generation:
                return
            if self.process.alive() and healthy(self.process.socket, min(10, self.settings.request_timeout_s)):
                return
            cause = told(self.process.log)
            self.process.stop(0)
            while True:
                if self._failures >= self.settings.restarts:
                    raise ServerError(f"the model server died {self._failures + 1} times in a row: {cause}")
                self._failures += 1
                self._event("server_restart", number=self._failures)
                time.sleep(min(2.0 ** (self._failures - 1) - 1, 60))
                try:
                    self._start(self.model_dir)
                    self.generation += 1  # only now: whoever fails before that still speaks of the dead one
                    return
                except ServerError as error:
                    cause = str(error)

    def load(self, model_dir: Path) -> None:
        """Serve the weights of `model_dir` from now on; no request may be in flight.

        Weights of the same architecture are exchanged in the running process in about a tenth of a second for a small
        model; anything else, and tied embeddings, restarts it. The first exchange in a process is verified: every
        parameter must come from the new folder. Raises ServerError if the weights cannot be loaded either way.
        """
        with self._lock:
            stamp = weights.stamp(model_dir)
            if stamp == self._stamp and self.process.alive():
                return
            started = time.monotonic()
            same = weights.architecture(model_dir) == self._architecture and not weights.tied(model_dir)
            if not (same and self.process.alive() and self._reload(model_dir)):
                self.process.stop(0)
                self._start(model_dir)
                self.generation += 1
            self.model_dir, self._stamp = model_dir, stamp
            self.load_s = time.monotonic() - started

    def _reload(self, model_dir: Path) -> bool:
        try:
            with connect(self.process.socket, 600) as http:
                before, blank = {}, {}
                if not self._verified:
                    before = _checksums(http)
                    http.post("/weight_checker", json={"action": "reset"}).raise_for_status()
                    blank = _checksums(http)
                call = {"method": "reload_weights", "kwargs": {"weights_path": str(model_dir.resolve())}}
                http.post("/collective_rpc", json=call).raise_for_status()
                for cache in ("prefix", "mm", "encoder"):
                    http.post(f"/reset_{cache}_cache").raise_for_status()
                if not self._verified:
                    after = _checksums(http)
                    stale = [name for name in after if after[name] == blank[name] != before[name]]
                    if stale:
                        self._event("server_reload_incomplete", parameters=len(stale))
                        return False
                    self._verified = True
        except (httpx.HTTPError, ValueError, LookupError):
            return False
        return True

    @property
    def socket(self) -> Path:
        return self.process.socket

    def client(self) -> Client:
        """A client of this server, for `async with`."""
        return Client(self)

    def replied(self) -> None:
        """A reply came: the process that runs now is a good one."""
        self._failures = 0

    def complete(
        self, requests: Iterable[Request], stopping: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[str, Reply]]:
        """(request id, reply) as they finish. `requests` is read only as fast as the server answers.

        When `stopping` returns True no further request is sent; what is in flight is finished and yielded.
        """
        source, results = iter(requests), queue.SimpleQueue[Any]()
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()

        async def ask(client: Client, request: Request) -> None:
            try:
                results.put((request.id, await client.chat(request)))
            except BaseException as error:
                results.put((request.id, error))
                if not isinstance(error, Exception):
                    raise

        async def enter() -> Client:
            return await self.client().__aenter__()

        client = asyncio.run_coroutine_threadsafe(enter(), loop).result()
        pending, more = 0, True
        try:
            while True:
                while more and pending < self.settings.window and not stopping():
                    try:
                        request = next(source)
                    except StopIteration:
                        more = False
                        break
                    asyncio.run_coroutine_threadsafe(ask(client, request), loop)
                    pending += 1
                if not pending:
                    return
                request_id, reply = results.get()
                pending -= 1
                if isinstance(reply, BaseException):
                    raise reply
                yield request_id, reply
        finally:
            asyncio.run_coroutine_threadsafe(_close(client), loop).result(30)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
            loop.close()

    def metrics(self) -> dict[str, float]:
        """vLLM's own counters and gauges by name, summed over labels."""
        with connect(self.process.socket, 10) as http:
            lines = http.get("/metrics").raise_for_status().text.splitlines()
        found: dict[str, float] = {}
        for line in lines:
            name, _, value = line.rpartition(" ")
            if name and not line.startswith("#"):
                key = name.split("{")[0]
                found[key] = found.get(key, 0.0) + float(value)
        return found

    def close(self) -> None:
        """Drain and end the process."""
        self.process.stop(self.settings.shutdown_timeout_s)


async def _close(client: Client) -> None:
    for task in asyncio.all_tasks():
        if task is not asyncio.current_task():
            task.cancel()
    await client.__aexit__(None, None, None)


def _checksums(http: httpx.Client) -> dict[str, str]:
    found: dict[str, str] = (
        http.post("/weight_checker", json={"action": "checksum"}).raise_for_status().json()["checksums"]
    )
    return found


@contextlib.contextmanager
def serve(model_dir: Path, settings: ServerSettings, ctx: Any, command: list[str] | None = None) -> Iterator[Server]:
    """A server of `model_dir` for the length of the block; see `Server`.

    `ctx` is a Context (or anything with workspace, attempt, gpus and event). Where the environment names a folder of
    standby servers, one with the same engine arguments is taken over from there and left running at the end.
    Raises ServerError if no server can be started, UserError if `model_dir` is no model folder.
    """
    if not (model_dir / "config.json").exists():
        raise UserError(f"{model_dir} is no model folder (no config.json); has the stage that makes it finished?")

    def log() -> Path:
        folder: Path = ctx.workspace
        names = (folder / f"server.{ctx.attempt}.{number}.log" for number in itertools.count())
        return next(path for path in names if not path.exists())

    shared = os.environ.get(standby.FOLDER)
    if shared:
        with standby.borrow(Path(shared), settings, arguments(settings, ctx.gpus)) as slot:
            yield Server(
                model_dir, settings, ctx.gpus, slot.folder, slot.log, slot=slot, event=ctx.event, command=command
            )
        return
    folder = private_folder()
    server = None
    try:
        server = Server(model_dir, settings, ctx.gpus, folder, log, event=ctx.event, command=command)
        yield server
    finally:
        if server is not None:
            server.close()
        shutil.rmtree(folder, ignore_errors=True)
