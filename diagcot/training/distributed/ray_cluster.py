"""Ray inside one job: a head in rank 0's process, a node of its own on every further machine, ended with the job.

Nothing is shared with other Ray clusters on the machines: ports are free ones that Ray picks, files lie in a private
folder, every connection carries the job's token (RAY_AUTH_MODE), and what was started here is ended by process id.
`ray stop` would end everybody's.

Ray's own ways to notice that its head is gone take long, or for ever, so rank 0 watches the head's processes itself.
"""

import contextlib
import ctypes
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diagcot.jobs import Context
from diagcot.serving.server.owner import process_identity

_ROOT = Path(__file__).parents[3]
_LOOK_S = 1.0  # between looks at the head's processes


def _environment(token: str, reconnect_s: int) -> dict[str, str]:
    """reconnect_s: how long after the end of gcs_server Ray itself ends a process, without a word to the process."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_enable_metrics_collection": "0",
        "RAY_DEDUP_LOGS": "0",
        "RAY_gcs_rpc_server_reconnect_timeout_s": str(reconnect_s),
        # A standby server outlives the actor that started it; every other one is ended by its own actor or owner.
        "RAY_kill_child_processes_on_worker_exit": "false",
        # Servers are given their GPUs by us; Ray would hide them from an actor that asks for none.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")])),
    }


def _own_address(ctx: Context) -> str:
    return "127.0.0.1" if ctx.nodes == 1 else socket.gethostbyname(socket.gethostname())


def _private_folder() -> Path:
    """A folder of mode 0700 with a short name: Ray puts sockets into it, whose paths end at 107 bytes."""
    return Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))


class Head:
    """Rank 0's Ray while it runs. `rendezvous`: what other nodes need to `join`.

    When gcs_server or raylet is gone, all of this machine's processes of this Ray are killed within seconds, and the
    main thread gets a RuntimeError wherever it is.
    """

    def __init__(self, rendezvous: dict[str, str], folder: Path) -> None:
        import psutil

        self.rendezvous, self._folder, self._lost, self._over = rendezvous, folder, "", threading.Event()
        own = [(one.name(), process_identity(one.pid)) for one in psutil.Process().children()]
        self._parts = {name: process for name, process in own if name in ("gcs_server", "raylet")}
        assert len(self._parts) == 2, own
        self._before = signal.signal(signal.SIGUSR1, lambda *_: self.check())
        threading.Thread(target=self._watch, name="ray-head", daemon=True).start()

    @property
    def lost(self) -> bool:
        return bool(self._lost)

    def check(self) -> None:
        """Raises RuntimeError if the head is gone."""
        if self._lost:
            raise RuntimeError(f"Ray's head is gone: its {self._lost} has died; the next attempt resumes the stage")

    def release(self) -> None:
        """Watch no longer: Ray is about to be shut down."""
        self._over.set()
        signal.signal(signal.SIGUSR1, self._before)

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_S):
            gone = [
                name for name, process in self._parts.items() if process_identity(int(process.split(":")[0])) != process
            ]
            if gone and not self._over.is_set():
                self._lost = " and its ".join(gone)
                _kill_all(self._folder)
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
                return


def _kill_all(folder: Path) -> None:
    """SIGKILL to the processes that write into Ray's `folder`: all of Ray's own. A model server ends with its actor.

    Neither parents nor variables tell: orphans have another parent, and a process that Ray names loses its variables.
    """
    import psutil

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and any(file.path.startswith(f"{folder}/") for file in process.open_files()):
                process.kill()


@contextlib.contextmanager
def head(ctx: Context, object_store_mb: int) -> Iterator[Head]:
    """Rank 0 as Ray's head and driver.

    Must run in the main thread: the kernel ends Ray's processes with the thread that started them, so a killed rank
    leaves none behind. Environment variables are put back at the end. Raises RuntimeError in the block, at any place,
    when the head dies.
    """
    folder = _private_folder()
    changed = _environment(secrets.token_hex(16), 300)  # rank 0 may have a checkpoint to write before it ends
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    import ray  # its core reads the environment when it is loaded

    try:
        ray.init(
            num_cpus=0,  # our actors ask for none, and Ray starts no idle workers in advance
            num_gpus=0,
            object_store_memory=object_store_mb * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            logging_level="ERROR",
            _temp_dir=str(folder),
            _node_ip_address=_own_address(ctx),
        )
        address = ray.get_runtime_context().gcs_address
        made = Head({"address": address, "token": changed["RAY_AUTH_TOKEN"]}, folder)
        try:
            yield made
        except Exception:
            made.check()  # whatever has failed, that is why
            raise
        finally:
            made.release()
    finally:
        with contextlib.suppress(Exception):
            ray.shutdown()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def join(ctx: Context, rendezvous: dict[str, str], object_store_mb: int) -> Iterator["subprocess.Popen[bytes]"]:
    """This machine as a further node of rank 0's Ray, for the length of the block; yields the node's process."""
    folder = _private_folder()
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    command += ["--address", rendezvous["address"], "--node-ip-address", _own_address(ctx)]
    command += ["--num-cpus", "0", "--num-gpus", "0", "--object-store-memory", str(object_store_mb * 2**20)]
    command += ["--min-worker-port", "0", "--max-worker-port", "0", "--temp-dir", str(folder)]
    with (folder / "node.log").open("wb") as log:
        node = subprocess.Popen(
            command,
            env=os.environ | _environment(rendezvous["token"], 20),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=_end_with_parent,
        )
    try:
        yield node
        if node.poll() is not None:
            raise RuntimeError(f"Ray's node on {socket.gethostname()} ended early with code {node.returncode}")
    finally:
        _stop(node)
        shutil.rmtree(folder, ignore_errors=True)


class Notice:
    """How nodes that hold servers alone, and no rank of the policy, find rank 0's Ray: a private file of the attempt.

    It is there as long as rank 0's Ray is.
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx, self._path = ctx, ctx.workspace / f"ray.{ctx.attempt}.json"

    @contextlib.contextmanager
    def put(self, rendezvous: dict[str, str]) -> Iterator[None]:
        """Rank 0: the notice, for the length of the block."""
        staged = self._path.with_suffix(".new")
        with os.fdopen(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
            json.dump(rendezvous, out)
        staged.rename(self._path)
        try:
            yield
        finally:
            self._path.unlink(missing_ok=True)

    def read(self, deadline_s: float) -> dict[str, str]:
        """What rank 0 wrote. Raises TimeoutError if nothing is there in time."""
        until = time.monotonic() + deadline_s
        while time.monotonic() < until:
            self._ctx.beat()
            with contextlib.suppress(OSError, ValueError):
                found: dict[str, str] = json.loads(self._path.read_text())
                return found
            time.sleep(0.2)
        raise TimeoutError(f"rank 0 did not start Ray within {deadline_s:.0f} s; see its log")

    def wait(self, node: "subprocess.Popen[bytes] | None") -> None:
        """Until rank 0's Ray is done. Raises RuntimeError if this machine's Ray node ended before."""
        while self._path.exists():
            self._ctx.beat()
            if node is not None and node.poll() is not None:
                time.sleep(2)  # the file goes a moment after the head
                if self._path.exists():
                    raise RuntimeError("rank 0's Ray is gone, and rank 0 did not say why; see its log")
            time.sleep(0.5)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _stop(node: "subprocess.Popen[bytes]") -> None:
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(node.pid).children(recursive=True)
        node.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            node.wait(10)
        for process in [*family, psutil.Process(node.pid)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    node.wait()


def nodes(wanted: int, deadline_s: float) -> list[str]:
    """Ids of the `wanted` nodes, the head first. Raises TimeoutError if they are not all there in time."""
    import ray

    own = ray.get_runtime_context().get_node_id()
    until = time.monotonic() + deadline_s
    while True:
        alive: list[dict[str, Any]] = [node for node in ray.nodes() if node["Alive"]]
        if len(alive) >= wanted:
            others = sorted((node["NodeManagerAddress"], node["NodeID"]) for node in alive if node["NodeID"] != own)
            return [own, *(name for _, name in others)]
        if time.monotonic() > until:
            raise TimeoutError(
                f"{len(alive)} of {wanted} Ray nodes joined within {deadline_s:.0f} s;"
                " can the machines of the allocation reach each other, and has each its share of the job's memory?"
            )
        time.sleep(0.2)
