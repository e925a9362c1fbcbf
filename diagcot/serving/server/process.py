"""The vLLM process: its socket, start, readiness and end."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from diagcot.jobs.state import reading
from diagcot.serving.errors import ServerError
from diagcot.serving.http import Address, refuses
from diagcot.serving.request import MODEL_NAME
from diagcot.serving.server.cause import first_error
from diagcot.serving.server.command import arguments, environment, program
from diagcot.serving.server.owner import process_identity
from diagcot.serving.server.placement import Placement
from diagcot.serving.settings import ServerSettings


class Process:
    """A vLLM server process, started by us or already running; it answers on the socket `folder`/s."""

    def __init__(self, identity: str, folder: Path, log: Path, child: "subprocess.Popen[bytes] | None" = None) -> None:
        self.identity = identity  # see owner.process_identity
        self.pid = int(identity.partition(":")[0])
        self.folder, self.log = folder, log
        self.socket = folder / "s"
        self.ready_s = 0.0
        self.ready_bytes = 0  # size of the log when it was ready
        self._child = child

    @classmethod
    def start(
        cls,
        model_dir: Path,
        settings: ServerSettings,
        placement: Placement,
        folder: Path,
        log: Path,
        owner: str | None = None,
        command: list[str] | None = None,
        cache: Path | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> "Process":
        """Start a server of `model_dir` and wait until it answers, or until `cancelled` returns True.

        It ends itself when `owner` (default: this process) is gone. Raises ServerError with cause and log.
        """
        (folder / "s").unlink(missing_ok=True)
        started = time.monotonic()
        run = [*program(command), str(model_dir), "--uds", str(folder / "s"), *arguments(settings, placement)]
        env = environment(settings, placement, owner or process_identity(os.getpid()), cache)
        process = cls.spawn(run, env, folder, log)
        try:
            process._wait_ready(started + settings.startup_timeout_s, settings.startup_timeout_s, cancelled)
        except BaseException:
            process.stop(0)
            raise
        process.ready_s = time.monotonic() - started
        process.ready_bytes = log.stat().st_size
        return process

    @classmethod
    def start_headless(
        cls,
        model_dir: Path,
        settings: ServerSettings,
        placement: Placement,
        folder: Path,
        log: Path,
        command: list[str] | None,
    ) -> "Process":
        """Start the part of a server on several nodes that runs on a node other than the first; it answers no requests."""
        run = [*program(command), str(model_dir), "--headless", *arguments(settings, placement)]
        return cls.spawn(run, environment(settings, placement, process_identity(os.getpid())), folder, log)

    @classmethod
    def spawn(cls, run: list[str], env: dict[str, str], folder: Path, log: Path) -> "Process":
        """Start a command in a process group of its own; its output goes to `log` (mode 0600)."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with reading.File(log, "a") as out:
            child = subprocess.Popen(
                run,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=folder,
                start_new_session=True,
            )
        return cls(process_identity(child.pid), folder, log, child)

    def _wait_ready(self, deadline: float, limit_s: float, cancelled: Callable[[], bool]) -> None:
        while True:
            if cancelled():
                raise ServerError("the task ended while its model server was starting")
            if not self.alive():
                raise ServerError(f"the model server ended while it was starting: {first_error(self.log)}")
            try:
                name = served_model(self.socket)
            except ServerError as error:
                raise ServerError(f"{error}; log: {self.log}") from None
            if name == MODEL_NAME:
                return
            if name is not None:
                raise ServerError(f"another model ({name}) answers on the server's socket; log: {self.log}")
            if time.monotonic() > deadline:
                raise ServerError(
                    f"the model server was not ready after {limit_s:.0f} s (startup_timeout_s): {first_error(self.log)}"
                )
            time.sleep(0.2)

    def alive(self) -> bool:
        """True if the process runs."""
        if self._child is not None:
            return self._child.poll() is None
        return process_identity(self.pid) == self.identity

    def stop(self, drain_s: float) -> None:
        """Send SIGTERM, wait up to `drain_s` seconds for the requests in flight, then SIGKILL the process group."""
        self._signal_group(signal.SIGTERM)
        deadline = time.monotonic() + drain_s
        while self.alive() and time.monotonic() < deadline:
            time.sleep(0.05)
        self._signal_group(signal.SIGKILL)
        if self._child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(10)

    def _signal_group(self, number: int) -> None:
        """Signal the server and its children, also if only children are left. Does nothing if the pid was reused."""
        if process_identity(self.pid) not in (self.identity, f"{self.pid}:gone"):
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


def connect(socket: Path, timeout_s: float) -> httpx.Client:
    """An HTTP client of the server on `socket`."""
    return Address(socket).connect(timeout_s)


def served_model(socket: Path, timeout_s: float = 5) -> str | None:
    """Name of the model that is served on `socket`; None if no model server answers.

    Raises ServerError if it refuses: waiting would not change that.
    """
    if not socket.exists():
        return None
    try:
        with connect(socket, timeout_s) as client:
            answer = client.get("/v1/models")
            if refuses(answer.status_code):
                raise ServerError(f"the server on {socket} refuses to list its models: HTTP {answer.status_code}")
            return str(answer.raise_for_status().json()["data"][0]["id"])
    except (httpx.HTTPError, ValueError, LookupError, TypeError):
        return None


def healthy(socket: Path, timeout_s: float = 10) -> bool:
    """True if the server and its engine core answer (vLLM's /health asks the engine core)."""
    try:
        with connect(socket, timeout_s) as client:
            return client.get("/health").status_code == 200
    except httpx.HTTPError:
        return False
