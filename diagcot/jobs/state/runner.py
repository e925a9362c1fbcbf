"""The runner of a run without Slurm, as other processes see it: `runner.lock`, and `runner.json` when it has ended."""

import fcntl
import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from diagcot.jobs.errors import UserError
from diagcot.jobs.state import documents, reading
from diagcot.jobs.state.files import write_json
from diagcot.jobs.state.processes import is_alive, start_time

START_S = 30  # a runner that has not taken its lock by then never will
POLL_S = 0.2


def lock(run_dir: Path) -> IO[str] | None:
    """The right to run this run's chain on this machine, or None while another runner has it.

    Raises OSError, also if something else than a regular file is in the place of the lock.
    """
    handle = io.TextIOWrapper(io.BufferedRandom(reading.File(run_dir / "runner.lock", "a+")), encoding="utf-8")
    if not _lock_or_signature(handle, fcntl.LOCK_EX):
        handle.close()
        return None
    sign(handle, os.getpid())
    return handle


def _lock_or_signature(handle: IO[str], kind: int) -> bool:
    """Take the lock; on a file system without locks, true if the process that signed it last has ended."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        handle.seek(0)
        pid, born, host = _signature(handle.read())
        return not pid or (host == os.uname().nodename and start_time(pid) != born)
    return True


def _signature(text: str) -> tuple[int, str, str]:
    """Process id, when it started, and its machine; (0, …) of an empty lock."""
    process, _, host = text.partition("\n")
    pid, _, born = process.partition(" ")
    return int(pid) if pid.isdecimal() else 0, born, host.strip() or os.uname().nodename


def sign(handle: IO[str], pid: int) -> None:
    """Write into the lock which process holds it: its id, when it started, and its machine."""
    handle.truncate(0)
    handle.write(f"{pid} {start_time(pid)}\n{os.uname().nodename}\n")
    handle.flush()


def process_id(run_dir: Path) -> int | None:
    """The process id of the runner that holds the lock, if there is one on this machine. Writes nothing."""
    path = run_dir / "runner.lock"
    if not path.is_file():  # a pipe would be waited for
        return None
    try:
        with path.open() as handle:
            pid, _, host = _signature(handle.read())
            # The lock is tried only where a process of this id exists: for a moment it would keep a runner from starting.
            if not pid or host != os.uname().nodename or not is_alive(pid):
                return None
            if not _lock_or_signature(handle, fcntl.LOCK_SH):
                return pid
    except (OSError, ValueError):
        return None
    return None  # the id is another process's now


def elsewhere(run_dir: Path) -> str:
    """The other machine whose runner has begun the run and not ended it, as far as its files say; empty if there is none."""
    if (run_dir / "runner.json").exists():
        return ""
    try:
        host = _signature(reading.read_text(run_dir / "runner.lock"))[2]
    except (OSError, ValueError):
        return ""
    return host if host != os.uname().nodename else ""


def is_working(run_dir: Path) -> bool:
    """True while a runner of this machine starts and watches tasks of the run."""
    return not (run_dir / "runner.json").exists() and process_id(run_dir) is not None


def report(run_dir: Path, code: int, failed: list[str], why: str = "") -> None:
    """Write how the runner has ended. code: its exit status; failed: the stages that failed; why: what stopped it itself."""
    write_json(run_dir / "runner.json", {"code": code, "failed": failed, "why": why, "time": time.time()})


def last_words(run_dir: Path) -> str:
    """The last line of the runner's log, and where the rest is."""
    path = run_dir / "runner.log"
    try:
        with reading.opened(path) as log:
            log.seek(max(0, path.stat().st_size - 4096))
            lines = log.read().decode(errors="replace").split("\n")
    except OSError:
        lines = []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"{last or 'it wrote nothing'} (see {path})" + "; is the disk of the logs full, or your quota used up?" * (
        not last
    )


def wait(run_dir: Path, on_poll: Callable[[], Any] = lambda: None, poll_s: float = POLL_S) -> int:
    """Wait until the runner has ended; returns its exit status.

    on_poll: called at each look. Raises UserError if the runner never started or died without a report, or if that is
    damaged.
    """
    path, began, seen = run_dir / "runner.json", time.monotonic(), False
    while not path.exists():
        on_poll()
        alive = process_id(run_dir) is not None
        if not alive and not path.exists() and (seen or time.monotonic() - began > START_S):
            raise UserError(
                f"the runner of run {run_dir.name} {'died' if seen else 'did not start'}: {last_words(run_dir)}"
            )
        seen = seen or alive
        time.sleep(poll_s)
    return int(documents.read(path, documents.RUNNER)["code"])
