"""Ends a server process when the process that owns it is gone."""

import os
import signal
import time
from pathlib import Path

OWNER = "DIAGCOT_SERVER_OWNER"
"""Environment variable: identity of the process without which the server ends itself (see `process_identity`)."""
GRACE_S = 20
"""Seconds from SIGTERM to SIGKILL."""


def process_identity(pid: int) -> str:
    """`<pid>:<start time in clock ticks since boot>` (proc(5)), which differs from that of a later process with the same pid.

    `<pid>:gone` if there is no such process.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return f"{pid}:gone"
    return f"{pid}:{'gone' if fields[0] in 'ZX' else fields[19]}"


def follow_owner(owner: str, interval_s: float = 2.0) -> None:
    """Wait until the owner is gone, then end this process and its process group."""
    pid = int(owner.partition(":")[0])
    while process_identity(pid) == owner:
        time.sleep(interval_s)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os.killpg(os.getpgid(0), signal.SIGKILL)
