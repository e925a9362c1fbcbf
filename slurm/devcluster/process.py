"""Daemons of the development cluster: start, find and stop them, but never another process that got the same id."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path


class DaemonError(Exception):
    """A daemon died or did not answer in time; the message ends with the last lines of its log."""


def start_time(pid: int) -> str | None:
    """Start of a living process in clock ticks since boot (proc(5), stat field 22); None for a dead one or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def offspring(pid: int) -> list[int]:
    """All descendants of a process, leaves first."""
    pids: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                pids += [*offspring(child), child]
    return pids


def kill(pids: Sequence[int], number: int = signal.SIGKILL) -> None:
    """Signal these processes, those that have ended aside."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


class Daemons:
    """Daemons known by name, each remembered by process id and start time in `run/<name>.id`."""

    def __init__(self, root: Path) -> None:
        self.run, self.log = root / "run", root / "log"

    def pid(self, name: str) -> int | None:
        """The process id of a running daemon, else None."""
        try:
            pid, start = (self.run / f"{name}.id").read_text().split()
        except (OSError, ValueError):
            return None
        return int(pid) if start_time(int(pid)) == start else None

    def start(self, name: str, command: Sequence[str | Path]) -> None:
        """Start in a separate session, so that it survives the terminal; output goes to `log/<name>.out`."""
        with (self.log / f"{name}.out").open("ab") as out:
            daemon = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        (self.run / f"{name}.id").write_text(f"{daemon.pid} {start_time(daemon.pid)}")

    def wait(self, name: str, ready: Callable[[], bool], seconds: float) -> None:
        """Wait until `ready()`; raises DaemonError as soon as the daemon is dead."""
        end = time.monotonic() + seconds
        while not ready():
            dead = self.pid(name) is None
            if dead or time.monotonic() > end:
                how = "died" if dead else f"did not answer in {seconds:.0f} s"
                raise DaemonError(f"{name} {how}\n{self.tail(name)}")
            time.sleep(0.05)

    def tail(self, name: str, lines: int = 6) -> str:
        """The last lines of a daemon's logs."""
        text = ""
        for path in (self.log / f"{name}.log", self.log / f"{name}.out"):
            if path.exists():
                text += "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) + "\n"
        return text + f"(logs in {self.log})"

    def stop(self, name: str, number: int = signal.SIGTERM, patience: float = 10) -> None:
        """Signal the daemon and wait for its end; after `patience` seconds it is killed."""
        pid = self.pid(name)
        if pid is not None:
            kill([pid], number)
            end = time.monotonic() + patience
            while self.pid(name) is not None:
                if time.monotonic() > end:
                    kill([pid])
                    end = float("inf")
                time.sleep(0.02)
        (self.run / f"{name}.id").unlink(missing_ok=True)
