"""Servers that outlive a task: on a laptop the tasks of a run take turns with one server, and save its start each time.

A folder named by the environment variable DIAGCOT_STANDBY holds one folder for each set of engine arguments, with the
server's socket, its log, its process and a lock that the task using it holds.
"""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from diagcot.jobs.state.files import write_json
from diagcot.serving.server.engine import mark
from diagcot.serving.server.placement import Seat
from diagcot.serving.server.process import Process, ServerError, arguments, served
from diagcot.serving.settings import ServerSettings

FOLDER = "DIAGCOT_STANDBY"
OWNER = "DIAGCOT_STANDBY_OWNER"
"""Process id without which standby servers end themselves: the chain's, or the task's where unset."""


class Slot:
    """The place of one standby server, held by this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.owner = mark(int(os.environ.get(OWNER) or os.getpid()))
        self.process: Process | None = None
        self.architecture = ""
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
            about = json.loads((folder / "server.json").read_text(encoding="utf-8"))
            process = Process(about["process"], folder, Path(about["log"]))
            if process.alive() and served(process.socket):
                self.process, self.architecture = process, about["architecture"]
            else:
                process.stop(0)

    def log(self) -> Path:
        return self.folder / f"server.{len(list(self.folder.glob('server.*.log')))}.log"

    def record(self, process: Process, architecture: str) -> None:
        about = {"process": process.name, "log": str(process.log), "architecture": architecture}
        write_json(self.folder / "server.json", about)


@contextlib.contextmanager
def borrow(root: Path, settings: ServerSettings, seat: Seat) -> Iterator[Slot]:
    """The slot of the server with these engine arguments in this seat; waits while another task holds it."""
    key = json.dumps([arguments(settings, seat), settings.kv_cache_gb, settings.cpu_threads, seat.number, seat.gpus])
    folder = root / hashlib.sha256(key.encode()).hexdigest()[:10]
    if len(str(folder).encode()) > 100:
        raise ServerError(f"the path of {FOLDER} is too long for a socket ({root}); name a shorter one")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Slot(folder)


def stop(root: Path) -> int:
    """End all standby servers of `root`; returns how many there were."""
    count = 0
    for record in sorted(root.glob("*/server.json")):
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
            about = json.loads(record.read_text(encoding="utf-8"))
            process = Process(about["process"], record.parent, Path(about["log"]))
            count += process.alive()
            process.stop(5)
            record.unlink()
    return count
