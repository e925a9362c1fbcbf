"""The right of one process at a time to submit jobs of a run, passed on safely when its holder dies.

`<name>.<n>.lease` with the highest n belongs to the holder; n + 1 can be created by one process only, and no number is
used twice: the highest stays when the lease is given back. A lease is free when its holder wrote so, or is dead: its
process on this machine has ended, or the job that it ran in is not alive, or is this same job, which Slurm has restarted.
A holder whose state cannot be queried (on another login node) touches its lease every `BEAT_S` seconds, and counts as
dead after `SILENCE_S` seconds without that, both by the file server's clock.
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
from diagcot.jobs.state import documents
from diagcot.jobs.state.files import create_exclusively, write_json
from diagcot.jobs.state.processes import start_time

SILENCE_S = 60
BEAT_S = 10  # how often a holder touches its lease
PATIENCE_S = 300  # longer than a holder's silence: a finaliser must outwait a launcher that was killed elsewhere
AT_ONCE_S = 1  # patience of a person who can ask again
POLL_S = 0.2
_HOLDER = documents.Format(({"free": bool}, {"host": str, "pid": int, "born": str, "job": str}), "Remove it")


def submit_lease(run_dir: Path) -> contextlib.AbstractContextManager[None]:
    """The right to submit jobs of this run."""
    return lease(run_dir / "submit")


@contextlib.contextmanager
def lease(path: Path, patience_s: float = PATIENCE_S, doing: str = "submits this run's jobs") -> Iterator[None]:
    """Hold the lease `path`. Raises UserError that names the holder if it is still held after `patience_s`, or if the run was
    removed meanwhile.

    doing: what a holder does, for that message.
    """
    own, ended = _take(path, time.monotonic() + patience_s, doing), threading.Event()
    beat = threading.Thread(target=_beat, args=(own, ended), name="lease", daemon=True)
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join()
        if own.parent.is_dir():  # else its holder has removed the run
            write_json(own, {"free": True})


def write_lease(run_dir: Path, patience_s: float = PATIENCE_S) -> contextlib.AbstractContextManager[None]:
    """The right to write a run's plans, which a submission holds until its jobs are known, and to remove the run."""
    return lease(run_dir / "write", patience_s, "submits or removes this run")


def is_written(run_dir: Path) -> bool:
    """Whether a process holds the right to write the run."""
    return bool(is_held(run_dir / "write"))


def is_held(path: Path) -> bool | None:
    """Whether the holder of the lease `path` is alive; None if nobody has ever held it."""
    holder = _newest(path)[1]
    return None if holder is None else _is_alive(holder)


def _beat(own: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT_S):
        with contextlib.suppress(OSError):
            os.utime(own)  # sets the file server's time


def _take(path: Path, end: float, doing: str) -> Path:
    while True:
        number, holder = _newest(path)
        if holder is None or not _is_alive(holder):
            own = path.with_name(f"{path.name}.{number + 1}.lease")
            try:
                created = create_exclusively(own, json.dumps(own_process()))
            except FileNotFoundError:
                raise UserError(f"{path.parent} was removed by another process meanwhile") from None
            if created:
                if _newest(path)[1] == own:
                    for old in _all(path)[:-1]:
                        old.unlink(missing_ok=True)
                    return own
                own.unlink(missing_ok=True)  # a number that was used and removed in the meantime
            continue
        if time.monotonic() > end:
            raise UserError(f"another process {doing} now: {_describe(holder)} ({holder})")
        time.sleep(POLL_S)


def _all(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}.*.lease"), key=_number)


def _number(path: Path) -> int:
    return int(path.name.split(".")[-2])


def _newest(path: Path) -> tuple[int, Path | None]:
    leases = _all(path)
    return (_number(leases[-1]), leases[-1]) if leases else (0, None)


def own_process() -> dict[str, object]:
    """What a lease records about its holder."""
    job = os.environ.get("SLURM_JOB_ID", "")
    return {"host": os.uname().nodename, "pid": os.getpid(), "born": start_time(os.getpid()), "job": job}


def _describe(holder: Path) -> str:
    try:
        row = documents.read(holder, _HOLDER)
        return f"process {row['pid']} on {row['host']}" + (f", job {row['job']}" if row["job"] else "")
    except (OSError, UserError):
        return "its holder"


def _is_alive(holder: Path) -> bool:
    try:
        touched = holder.stat().st_mtime
        row = documents.read(holder, _HOLDER)
    except FileNotFoundError:
        return False
    except documents.DamagedFile:  # whoever has written it still touches it, or is dead
        row = {"host": "", "job": ""}
    if "free" in row:
        return False
    if row["host"] == os.uname().nodename:
        return bool(row["born"]) and start_time(row["pid"]) == row["born"]
    if row["job"] and row["job"] == os.environ.get("SLURM_JOB_ID"):
        return False
    if row["job"]:
        with contextlib.suppress(slurm.SlurmError):
            return bool(slurm.alive({row["job"]: ""}))
    return _now(holder.parent) - touched < SILENCE_S


def _now(folder: Path) -> float:
    """The file server's time, with which the ages of its files are compared."""
    probe = folder / f".clock.{os.getpid()}"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)
