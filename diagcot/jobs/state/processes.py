"""Processes of this machine, as /proc knows them."""

import os
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
