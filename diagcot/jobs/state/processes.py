"""Processes of this machine, as /proc knows them, and the limits of this one."""

import os
import resource
from pathlib import Path


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
