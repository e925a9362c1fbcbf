"""One vLLM process at one address: started, kept alive, switched to other weights, drained at the end."""

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from diagcot.serving.errors import ServerError
from diagcot.serving.http import Address
from diagcot.serving.request import MODEL_NAME
from diagcot.serving.server import compile_cache, weights
from diagcot.serving.server.cause import first_error
from diagcot.serving.server.check import check
from diagcot.serving.server.command import arguments
from diagcot.serving.server.placement import Placement
from diagcot.serving.server.process import Process, connect, healthy
from diagcot.serving.server.warm import WarmServer
from diagcot.serving.settings import ServerSettings

RELOAD_TIMEOUT_S = 600
MAX_BACKOFF_S = 60


class Replica:
    """A process, its devices and its weights. `folder` is private and holds the socket."""

    model, vllm = MODEL_NAME, True

    def __init__(
        self,
        model_dir: Path,
        settings: ServerSettings,
        placement: Placement,
        folder: Path,
        log: Callable[[], Path],
        *,
        warm: WarmServer | None = None,
        event: Callable[..., None] | None = None,
        command: list[str] | None = None,
        cache: Path | None = None,
    ) -> None:
        self.settings, self.placement, self.folder, self.model_dir = settings, placement, folder, model_dir
        self.generation = 0  # number of restarts
        self.load_s = 0.0  # seconds that the last change of weights took
        self._log, self._warm, self._command, self._cache = log, warm, command, cache
        self._event = event or (lambda *_, **__: None)
        self._lock, self._closed = threading.RLock(), threading.Event()
        self._restarts = 0  # since the last reply
        self._verified = False  # whether a change of weights was verified in this process
        if warm and warm.process:
            self.process, self._architecture, self._stamp = warm.process, warm.architecture, ()
            self.load(model_dir)
            with contextlib.suppress(httpx.HTTPError), connect(self.process.socket, 10) as http:
                http.post("/resume")  # a stage that was killed while it changed the weights has left it paused
        else:
            self._start(model_dir)

    @property
    def address(self) -> Address:
        """Where the process answers."""
        return Address(self.folder / "s")

    def _start(self, model_dir: Path) -> None:
        self._stamp = weights.stamp(model_dir)
        self._architecture = weights.architecture(model_dir)
        self.model_dir, self._verified = model_dir, False
        owner = self._warm.owner if self._warm else None
        check(model_dir, self.settings, self.placement)
        with self._compiling():
            self.process = Process.start(
                model_dir,
                self.settings,
                self.placement,
                self.folder,
                self._log(),
                owner,
                self._command,
                self._cache,
                self._closed.is_set,
            )
        self._event("server_ready", seconds=round(self.process.ready_s, 2), seat=self.placement.index)
        if self._warm:
            self._warm.record(self.process, self._architecture)

    def _compiling(self) -> contextlib.AbstractContextManager[object]:
        if self._cache is None:
            return contextlib.nullcontext()
        name = compile_cache.key(self._architecture, arguments(self.settings, self.placement))
        return compile_cache.exclusive_fill(self._cache, name, self.settings.startup_timeout_s, self._closed.is_set)

    def revive(self, generation: int) -> None:
        """Return when a healthy server answers; process number `generation` is replaced if it is dead or hangs.

        Raises ServerError after `settings.restarts` restarts in a row without a reply in between.
        """
        with self._lock:
            if generation != self.generation:
                return
            if self.process.alive() and healthy(self.process.socket, min(10, self.settings.request_timeout_s)):
                return
            cause = first_error(self.process.log, self.process.ready_bytes)
            self.process.stop(0)
            while True:
                if self._closed.is_set():
                    raise ServerError("the task ended while its model server was dead")
                if self._restarts >= self.settings.restarts:
                    self._event("server_lost", seat=self.placement.index)
                    raise ServerError(f"the model server died {self._restarts + 1} times in a row: {cause}")
                self._restarts += 1
                self._event("server_restart", number=self._restarts)
                self._closed.wait(min(2.0 ** (self._restarts - 1) - 1, MAX_BACKOFF_S))
                try:
                    self._start(self.model_dir)
                    self.generation += 1  # only now: requests that fail before this still report the dead process
                    return
                except ServerError as error:
                    cause = str(error)

    def load(self, model_dir: Path) -> None:
        """See `Server.load`."""
        with self._lock:
            stamp = weights.stamp(model_dir)
            if stamp == self._stamp and self.process.alive():
                return
            started = time.monotonic()
            same = weights.architecture(model_dir) == self._architecture
            if not (same and self.process.alive() and self._reload(model_dir)):
                self.process.stop(0)
                self._start(model_dir)
                self.generation += 1
            self.model_dir, self._stamp = model_dir, stamp
            self.load_s = time.monotonic() - started

    def _reload(self, model_dir: Path) -> bool:
        """Load weights in the running process; False if that failed or left some parameters unchanged.

        Uses routes of vLLM's development mode (`/collective_rpc` in vllm/entrypoints/serve/dev, `/weight_checker` in
        vllm/entrypoints/rl/online) and `reload_weights` of its GPU worker and model runner (vllm/v1/worker).
        """
        try:
            with connect(self.process.socket, RELOAD_TIMEOUT_S) as http:
                before, reset = {}, {}
                if not self._verified:
                    before = _checksums(http)
                    http.post("/weight_checker", json={"action": "reset"}).raise_for_status()
                    reset = _checksums(http)
                call = {"method": "reload_weights", "kwargs": {"weights_path": str(model_dir.resolve())}}
                http.post("/collective_rpc", json=call).raise_for_status()
                http.post("/collective_rpc", json={"method": "repack_tied_head"}).raise_for_status()
                for cache in ("prefix", "mm", "encoder"):
                    http.post(f"/reset_{cache}_cache").raise_for_status()
                if not self._verified:
                    after = _checksums(http)
                    stale = [name for name in after if after[name] == reset[name] != before[name]]
                    if stale:
                        self._event("server_reload_incomplete", parameters=len(stale))
                        return False
                    self._verified = True
        except (httpx.HTTPError, ValueError, LookupError):
            return False
        return True

    def replied(self) -> None:
        """A valid reply arrived: later deaths of the process are counted from here."""
        self._restarts = 0

    def metrics(self) -> bytes:
        """The text of /metrics. Raises httpx.HTTPError."""
        with connect(self.process.socket, 10) as http:
            return http.get("/metrics").raise_for_status().content

    def close(self) -> None:
        """Drain and end the process; a start in progress is cancelled."""
        self._closed.set()
        with self._lock:
            self.process.stop(self.settings.shutdown_timeout_s)


def _checksums(http: httpx.Client) -> dict[str, str]:
    """Checksum of each parameter."""
    response = http.post("/weight_checker", json={"action": "checksum"}).raise_for_status()
    checksums: dict[str, str] = response.json()["checksums"]
    return checksums
