"""The right of one process at a time to submit jobs of a run, handed on safely when its holder dies.

`<name>.<n>.lease` with the highest n is the holder's; n + 1 can be created by one process only, and no number is used
again: the highest stays when it is given back. A lease is free when its holder says so in it, or is dead: its process
on this machine is gone, the job it ran in is not alive, or is this very job, which Slurm has started anew. A holder
that cannot be asked (a login node elsewhere) touches its lease every `BEAT_S`, and is believed dead after `SILENCE_S`
without that, both by the file server's own clock.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from diagcot.jobs.errors import UserError
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.state.files import create_exclusively, write_json
from diagcot.jobs.state.processes import start_time

SILENCE_S = 60
BEAT_S = 10  # how often a holder touches its lease
PATIENCE_S = 300  # longer than a holder's silence: a finaliser must outwait a launcher that was killed elsewhere
POLL_S = 0.2


@contextlib.contextmanager
def lease(path: Path, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Hold the lease `path`. Raises UserError that names the holder if it is still held after `patience_s`."""
    mine, over = _take(path, time.monotonic() + patience_s), threading.Event()
    beating = threading.Thread(target=_beat, args=(mine, over), name="lease", daemon=True)
    beating.start()
    try:
        yield
    finally:
        over.set()
        beating.join()
        write_json(mine, {"free": True})


def _beat(mine: Path, over: threading.Event) -> None:
    while not over.wait(BEAT_S):
        with contextlib.suppress(OSError):
            os.utime(mine)  # to the file server's time


def _take(path: Path, end: float) -> Path:
    while True:
        number, holder = _newest(path)
        if holder is None or not _lives(holder):
            mine = path.with_name(f"{path.name}.{number + 1}.lease")
            if create_exclusively(mine, json.dumps(_myself())):
                if _newest(path)[1] == mine:
                    for old in _all(path)[:-1]:
                        old.unlink(missing_ok=True)
                    return mine
                mine.unlink(missing_ok=True)  # a number that was used and cleared away while we looked
            continue
        if time.monotonic() > end:
            raise UserError(f"another process submits this run's jobs now: {_said(holder)} ({holder})")
        time.sleep(POLL_S)


def _all(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}.*.lease"), key=_number)


def _number(path: Path) -> int:
    return int(path.name.split(".")[-2])


def _newest(path: Path) -> tuple[int, Path | None]:
    found = _all(path)
    return (_number(found[-1]), found[-1]) if found else (0, None)


def _myself() -> dict[str, object]:
    job = os.environ.get("SLURM_JOB_ID", "")
    return {"host": os.uname().nodename, "pid": os.getpid(), "born": start_time(os.getpid()), "job": job}


def _said(holder: Path) -> str:
    try:
        row = json.loads(holder.read_text())
        return f"process {row['pid']} on {row['host']}" + (f", job {row['job']}" if row["job"] else "")
    except (OSError, ValueError, KeyError):
        return "it"


def _lives(holder: Path) -> bool:
    try:
        row = json.loads(holder.read_text())
        held_for = _now(holder.parent) - holder.stat().st_mtime
    except FileNotFoundError:
        return False
    if "free" in row:
        return False
    if row["host"] == os.uname().nodename:
        return bool(row["born"]) and start_time(row["pid"]) == row["born"]
    if row["job"] and row["job"] == os.environ.get("SLURM_JOB_ID"):
        return False
    if row["job"]:
        with contextlib.suppress(slurm.SlurmError):
            return bool(slurm.alive({row["job"]: ""}))
    return held_for < SILENCE_S


def _now(folder: Path) -> float:
    """The file server's time, which the ages of its files are to be compared with."""
    probe = folder / f".clock.{os.getpid()}"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)
