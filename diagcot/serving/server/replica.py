"""One vLLM process under one address: started, kept alive, switched to other weights, drained at the end."""

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from diagcot.serving.http import Address
from diagcot.serving.request import MODEL_NAME
from diagcot.serving.server import compiled, weights
from diagcot.serving.server import warm as standby
from diagcot.serving.server.check import check
from diagcot.serving.server.placement import Seat
from diagcot.serving.server.process import Process, ServerError, arguments, connect, healthy, told
from diagcot.serving.settings import ServerSettings


class Replica:
    """A process in its seat, and the weights in it. `folder` is private and holds the socket."""

    model, vllm = MODEL_NAME, True

    def __init__(
        self,
        model_dir: Path,
        settings: ServerSettings,
        seat: Seat,
        folder: Path,
        log: Callable[[], Path],
        *,
        slot: standby.Slot | None = None,
        event: Callable[..., None] | None = None,
        command: list[str] | None = None,
        cache: Path | None = None,
    ) -> None:
        self.settings, self.seat, self.folder, self.model_dir = settings, seat, folder, model_dir
        self.generation = 0  # how many processes there have been, less one
        self.load_s = 0.0  # seconds that the last change of weights took
        self._log, self._slot, self._command, self._cache = log, slot, command, cache
        self._event = event or (lambda *_, **__: None)
        self._lock, self._closed = threading.RLock(), threading.Event()
        self._failures = 0  # restarts since the last reply
        self._verified = False  # whether a change of weights was checked in this process
        if slot and slot.process:
            self.process, self._architecture, self._stamp = slot.process, slot.architecture, ()
            self.load(model_dir)
        else:
            self._start(model_dir)

    @property
    def address(self) -> Address:
        return Address(self.folder / "s")

    def _start(self, model_dir: Path) -> None:
        self._stamp = weights.stamp(model_dir)
        self._architecture = weights.architecture(model_dir)
        self.model_dir, self._verified = model_dir, False
        owner = self._slot.owner if self._slot else None
        check(model_dir, self.settings, self.seat)
        with self._filling():
            self.process = Process.start(
                model_dir,
                self.settings,
                self.seat,
                self.folder,
                self._log(),
                owner,
                self._command,
                self._cache,
                self._closed.is_set,
            )
        self._event("server_ready", seconds=round(self.process.ready_s, 2), seat=self.seat.number)
        if self._slot:
            self._slot.record(self.process, self._architecture)

    def _filling(self) -> contextlib.AbstractContextManager[object]:
        if self._cache is None:
            return contextlib.nullcontext()
        name = compiled.key(self._architecture, arguments(self.settings, self.seat))
        return compiled.filling(self._cache, name, self.settings.startup_timeout_s, self._closed.is_set)

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
                if self._closed.is_set():
                    raise ServerError("the task ended while its model server was dead")
                if self._failures >= self.settings.restarts:
                    self._event("server_lost", seat=self.seat.number)
                    raise ServerError(f"the model server died {self._failures + 1} times in a row: {cause}")
                self._failures += 1
                self._event("server_restart", number=self._failures)
                self._closed.wait(min(2.0 ** (self._failures - 1) - 1, 60))
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

    def replied(self) -> None:
        """A reply came: the process that runs now is a good one."""
        self._failures = 0

    def metrics(self) -> bytes:
        """The text of /metrics. Raises httpx.HTTPError."""
        with connect(self.process.socket, 10) as http:
            return http.get("/metrics").raise_for_status().content

    def close(self) -> None:
        """Drain and end the process; one that is being started is given up."""
        self._closed.set()
        with self._lock:
            self.process.stop(self.settings.shutdown_timeout_s)


def _checksums(http: httpx.Client) -> dict[str, str]:
    found: dict[str, str] = (
        http.post("/weight_checker", json={"action": "checksum"}).raise_for_status().json()["checksums"]
    )
    return found
