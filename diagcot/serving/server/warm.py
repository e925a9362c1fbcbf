"""Warm servers: on a laptop the tasks of a run take turns with one server, which saves its start each time.

The folder that the environment variable DIAGCOT_STANDBY names holds one folder per set of server arguments, with the
server's socket, its process and a lock that is held by the task that uses it.
"""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from diagcot.jobs.state import reading
from diagcot.jobs.state.files import write_json
from diagcot.serving.errors import ServerError
from diagcot.serving.server.owner import process_identity
from diagcot.serving.server.placement import Placement
from diagcot.serving.server.process import Process, arguments, served_model
from diagcot.serving.settings import ServerSettings

FOLDER = "DIAGCOT_STANDBY"
OWNER = "DIAGCOT_STANDBY_OWNER"
"""Process id without which warm servers end themselves: the runner's, or this task's if the variable is not set."""


class WarmServer:
    """A warm server, or the place for one, held by this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.owner = process_identity(int(os.environ.get(OWNER) or os.getpid()))
        self.process: Process | None = None
        self.architecture = ""
        with contextlib.suppress(FileNotFoundError, ValueError, LookupError, TypeError, RecursionError):
            record = json.loads((folder / "server.json").read_text(encoding="utf-8"))
            process = Process(record["process"], folder, Path(record["log"]))
            if process.alive() and served_model(process.socket):
                self.process, self.architecture = process, record["architecture"]
            else:
                process.stop(0)

    def record(self, process: Process, architecture: str) -> None:
        """Write down which process runs here now, for the next task."""
        record = {"process": process.identity, "log": str(process.log), "architecture": architecture}
        write_json(self.folder / "server.json", record)


@contextlib.contextmanager
def acquire(root: Path, settings: ServerSettings, placement: Placement) -> Iterator[WarmServer]:
    """The warm server with these server arguments and placement; waits while another task uses it."""
    parts = [
        arguments(settings, placement),
        settings.kv_cache_gb,
        settings.cpu_threads,
        placement.index,
        placement.gpus,
    ]
    folder = root / hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:10]
    if len(str(folder).encode()) > 100:
        raise ServerError(f"the path in {FOLDER} is too long for a socket ({root}): choose a shorter one")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with reading.File(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise ServerError(
                f"{folder} is on a file system without locks ({error.strerror}): point TMPDIR at a local disk"
            ) from error
        yield WarmServer(folder)


def stop(root: Path) -> int:
    """End all warm servers under `root`; returns their number."""
    count = 0
    for path in sorted(root.glob("*/server.json")):
        with contextlib.suppress(FileNotFoundError, ValueError, LookupError, TypeError, RecursionError):
            record = json.loads(path.read_text(encoding="utf-8"))
            process = Process(record["process"], path.parent, Path(record["log"]))
            count += process.alive()
            process.stop(5)
            path.unlink()
    return count
