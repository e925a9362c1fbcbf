"""Ray inside one job: a head in rank 0's process, a Ray node on every further machine, ended with the job.

Nothing is shared with other Ray clusters on the machines: Ray picks free ports, files are in a private folder, every
connection carries the job's token (RAY_AUTH_MODE), and what was started here is ended by process id. `ray stop` would
end the processes of all users.

Ray itself notices the loss of its head after minutes, or never, so rank 0 watches the head's processes.
"""

import contextlib
import ctypes
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diagcot.jobs import Context
from diagcot.jobs.environment import variables
from diagcot.jobs.execution import place
from diagcot.jobs.state import reading
from diagcot.jobs.state.files import remove
from diagcot.serving.server.owner import process_identity

_LOG_BYTES = 2**20  # of each log of Ray that is kept after a failure
_POLL_S = 1.0  # between looks at the head's processes


def _environment(token: str, reconnect_s: int) -> dict[str, str]:
    """reconnect_s: seconds after the end of gcs_server when Ray ends a process without notice."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_enable_metrics_collection": "0",
        "RAY_DEDUP_LOGS": "0",
        "RAY_worker_niceness": "0",  # 15 by default: rollouts would yield to whatever else runs on the node
        "RAY_gcs_rpc_server_reconnect_timeout_s": str(reconnect_s),
        # A warm server outlives the actor that started it; every other one is ended by its actor or owner.
        "RAY_kill_child_processes_on_worker_exit": "false",
        # We assign GPUs to servers; Ray would hide them from an actor that requests none.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        **variables.OWN_CODE,
    }


def _own_address(ctx: Context) -> str:
    return "127.0.0.1" if ctx.nodes == 1 else socket.gethostbyname(socket.gethostname())


class Head:
    """Rank 0's Ray while it runs. `rendezvous`: what other nodes need to `join`.

    When gcs_server or raylet is gone, all processes of this Ray on this machine are killed within seconds, and the
    main thread gets a RuntimeError wherever it is.
    """

    def __init__(self, rendezvous: dict[str, str], folder: Path) -> None:
        import psutil

        self.rendezvous, self._folder, self._lost, self._released = rendezvous, folder, "", threading.Event()
        children = [(child.name(), process_identity(child.pid)) for child in psutil.Process().children()]
        self._parts = {name: process for name, process in children if name in ("gcs_server", "raylet")}
        assert len(self._parts) == 2, children
        self._handler = signal.signal(signal.SIGUSR1, lambda *_: self.check())
        threading.Thread(target=self._watch, name="ray-head", daemon=True).start()

    @property
    def lost(self) -> bool:
        """Whether the head is gone."""
        return bool(self._lost)

    def check(self) -> None:
        """Raises RuntimeError if the head is gone."""
        if self._lost:
            raise RuntimeError(f"Ray's head is gone: its {self._lost} has died; the next attempt resumes the stage")

    def release(self) -> None:
        """Stop watching: Ray is about to be shut down."""
        self._released.set()
        signal.signal(signal.SIGUSR1, self._handler)

    def _watch(self) -> None:
        while not self._released.wait(_POLL_S):
            dead = [
                name for name, process in self._parts.items() if process_identity(int(process.split(":")[0])) != process
            ]
            if dead and not self._released.is_set():
                self._lost = " and its ".join(dead)
                _kill_all(self._folder)
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
                return


def _kill_all(folder: Path) -> None:
    """SIGKILL to the processes that write into Ray's `folder`: all of this Ray. A model server ends with its actor.

    Parents and environment do not identify them: orphans have another parent, and a process that Ray renames loses its
    environment.
    """
    import psutil

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and any(file.path.startswith(f"{folder}/") for file in process.open_files()):
                process.kill()


def _keep_logs(folder: Path, ctx: Context) -> None:
    """Copy the ends of Ray's logs to the workspace: what Ray reports of a failure is seldom its cause."""
    target = ctx.workspace / f"ray.{ctx.attempt}.{ctx.rank}"
    with contextlib.suppress(OSError):
        for path in [folder / "node.log", *folder.glob("session_2*/logs/*")]:
            if path.is_file() and path.stat().st_size:
                target.mkdir(parents=True, exist_ok=True)
                (target / path.name).write_bytes(path.read_bytes()[-_LOG_BYTES:])
        print(f"logs of Ray: {target}", flush=True)


@contextlib.contextmanager
def start_head(ctx: Context, object_store_mb: int) -> Iterator[Head]:
    """Rank 0 as Ray's head and driver, for the length of the block.

    Must run in the main thread: the kernel ends Ray's processes with the thread that started them, so a killed rank
    leaves none behind. Environment variables are restored at the end. Raises RuntimeError anywhere in the block when the
    head dies. object_store_mb: MiB of Ray's shared memory.
    """
    folder = place.folder("r")
    environment = _environment(secrets.token_hex(16), 300)  # rank 0 may have a checkpoint to write before it ends
    before, here, own = dict(os.environ), Path.cwd(), variables.child(**environment)
    os.environ.clear()
    os.environ.update(own)
    # Ray puts the driver's working directory first on the path of every actor, whose code would be what lies there.
    os.chdir(folder)
    try:
        import ray  # its core reads the environment when it is loaded

        ray.init(
            num_cpus=0,  # our actors request none, and Ray starts no idle workers in advance
            num_gpus=0,
            object_store_memory=object_store_mb * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            logging_level="ERROR",
            _temp_dir=str(folder),
            _node_ip_address=_own_address(ctx),
        )
        os.chdir(here)
        os.environ.update(before | environment)
        address = ray.get_runtime_context().gcs_address
        head = Head({"address": address, "token": environment["RAY_AUTH_TOKEN"]}, folder)
        try:
            yield head
        except Exception:
            head.check()  # if the head is gone, that is the reason for the failure
            raise
        finally:
            head.release()
    finally:
        failed = sys.exc_info()[0] is not None
        with contextlib.suppress(Exception):
            ray.shutdown()
        _kill_all(folder)  # what Ray leaves for a moment would make the folder again
        if failed:
            _keep_logs(folder, ctx)
        os.chdir(here)
        os.environ.clear()
        os.environ.update(before)
        remove(folder, folder.parent)


@contextlib.contextmanager
def join(ctx: Context, rendezvous: dict[str, str], object_store_mb: int) -> Iterator["subprocess.Popen[bytes]"]:
    """This machine as a further node of rank 0's Ray, for the length of the block; yields the node's process.

    rendezvous: of the `Head`. Raises RuntimeError at the end of the block if the node ended earlier.
    """
    folder = place.folder("r")
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    command += ["--address", rendezvous["address"], "--node-ip-address", _own_address(ctx)]
    command += ["--num-cpus", "0", "--num-gpus", "0", "--object-store-memory", str(object_store_mb * 2**20)]
    command += ["--min-worker-port", "0", "--max-worker-port", "0", "--temp-dir", str(folder)]
    with (folder / "node.log").open("wb") as log:
        node = subprocess.Popen(
            command,
            env=variables.child(**_environment(rendezvous["token"], 20)),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=_end_with_parent,  # noqa: PLW1509  no thread runs yet
        )
    try:
        yield node
        if node.poll() is not None:
            raise RuntimeError(f"Ray's node on {socket.gethostname()} ended early with code {node.returncode}")
    finally:
        failed = sys.exc_info()[0] is not None
        _stop(node)
        if failed:
            _keep_logs(folder, ctx)
        remove(folder, folder.parent)


class RendezvousFile:
    """How nodes that hold only servers, and no rank of the policy, find rank 0's Ray: a private file of the attempt.

    It exists as long as rank 0's Ray.
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx, self._path = ctx, ctx.workspace / f"ray.{ctx.attempt}.json"

    @contextlib.contextmanager
    def publish(self, rendezvous: dict[str, str]) -> Iterator[None]:
        """The file, for the length of the block; for rank 0."""
        staged = self._path.with_suffix(".new")
        with reading.File(staged, "w") as out:
            out.write(json.dumps(rendezvous).encode())
        staged.rename(self._path)
        try:
            yield
        finally:
            self._path.unlink(missing_ok=True)

    def read(self, deadline_s: float) -> dict[str, str]:
        """What rank 0 wrote. Raises TimeoutError if there is no file after `deadline_s` seconds."""
        deadline = time.monotonic() + deadline_s
        while time.monotonic() < deadline:
            self._ctx.beat()
            with contextlib.suppress(OSError, ValueError):
                rendezvous: dict[str, str] = json.loads(self._path.read_text())
                return rendezvous
            time.sleep(0.2)
        raise TimeoutError(f"rank 0 did not start Ray within {deadline_s:.0f} s; see its log")

    def wait(self, node: "subprocess.Popen[bytes] | None") -> None:
        """Wait for the end of rank 0's Ray. Raises RuntimeError if this machine's Ray node ended earlier."""
        while self._path.exists():
            self._ctx.beat()
            if node is not None and node.poll() is not None:
                time.sleep(2)  # the file is removed a moment after the head ends
                if self._path.exists():
                    raise RuntimeError("rank 0's Ray is gone, and rank 0 gave no reason; see its log")
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


def node_ids(expected: int, deadline_s: float) -> list[str]:
    """Ids of Ray's nodes, the head first. Raises TimeoutError unless `expected` nodes joined after `deadline_s` seconds."""
    import ray

    own = ray.get_runtime_context().get_node_id()
    deadline = time.monotonic() + deadline_s
    while True:
        alive: list[dict[str, Any]] = [node for node in ray.nodes() if node["Alive"]]
        if len(alive) >= expected:
            others = sorted((node["NodeManagerAddress"], node["NodeID"]) for node in alive if node["NodeID"] != own)
            return [own, *(name for _, name in others)]
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"{len(alive)} of {expected} Ray nodes joined within {deadline_s:.0f} s;"
                " check that the machines of the allocation can reach each other and that each has its share of the job's memory"
            )
        time.sleep(0.2)
