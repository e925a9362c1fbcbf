"""Processes of this machine, as /proc knows them, and the limits of this one."""

import contextlib
import os
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType


def start_time(pid: int) -> str:
    """When a process started, in clock ticks since boot; empty if there is none. It distinguishes reused ids."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return "" if fields[0] in "ZX" else fields[19]  # Z and X: it has ended, and its parent has not collected it
    except (OSError, IndexError):
        return ""


def is_alive(pid: int) -> bool:
    """True if a process of this id exists, whoever owns it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def allow_open_files() -> None:
    """Raise the limit of open files of this process and its children to what the system allows them, at most a million.

    Java reserves memory for every file that the limit allows, and some containers allow a thousand million.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1 << 20 if hard == resource.RLIM_INFINITY else min(hard, 1 << 20)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextlib.contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """For the length of the block, SIGTERM and SIGHUP raise KeyboardInterrupt with their number, as Ctrl-C does without one.

    One that is ignored (nohup) stays so. Only the main thread can receive signals: elsewhere nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: FrameType | None) -> None:
        for other in before:
            signal.signal(other, signal.SIG_IGN)  # it is stopping already
        raise KeyboardInterrupt(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
