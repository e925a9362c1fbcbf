"""Copies of the shards that tasks read, on the node's own disk: made once a node, read by all processes of the user there.

The folder is `shared` of `diagcot.jobs.execution.place`: it goes with the last task on the node that uses it.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from diagcot.jobs.execution import place
from diagcot.jobs.state import reading

VARIABLE = "DIAGCOT_COPIES"
SPARE_GB = 1  # left free for temporary files
_BLOCK = 4 << 20
_said: list[Path] = []  # files that this process reads from the shared storage


@contextlib.contextmanager
def opened(scratch: str) -> Iterator[None]:
    """For the length of the block, `near` copies to the folder that `scratch` names on this node; empty: it does not.

    Where the folder will not do, files are read where they are, and the log says why.
    """
    if not scratch:
        yield
        return
    base = place.expanded(scratch)
    with contextlib.ExitStack() as stack:
        why = place.not_ours(base)
        if not why:
            try:
                os.environ[VARIABLE] = str(stack.enter_context(place.shared(base)))
            except OSError as error:
                why = error.strerror or str(error)
        if why:
            print(f"shards are read from the shared storage: scratch={base}: {why}", flush=True)
        try:
            yield
        finally:
            os.environ.pop(VARIABLE, None)


def near(path: Path) -> Path:
    """The copy of a file on this node's disk, made first unless it is there; the path itself where there is to be none.

    A copy is compared with what was read by SHA-256. A file that has changed since is another file.
    """
    folder = place.trusted(os.environ.get(VARIABLE, ""))
    if folder is None or not path.is_file():
        return path
    found = path.stat()
    about = f"{path.resolve()} {found.st_ino} {found.st_size} {found.st_mtime_ns}"
    copy = folder / "f" / f"{hashlib.sha256(about.encode()).hexdigest()[:32]}{path.suffix}"
    if copy.exists():
        return copy
    copy.parent.mkdir(mode=0o700, exist_ok=True)
    with reading.File(copy.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the first process copies, the others wait for it
        if copy.exists():
            return copy
        began, why = time.monotonic(), _copy(path, copy, found.st_size)
    if why:
        if not _said:
            print(f"{path.name} is read from the shared storage, as is whatever else does not fit: {why}", flush=True)
        _said.append(path)
        return path
    print(f"{path.name}: {found.st_size / 1e6:.1f} MB copied to {copy} in {time.monotonic() - began:.1f} s", flush=True)
    return copy


def _copy(path: Path, copy: Path, size: int) -> str:
    """Copy a file; why that was not possible, empty if it was. Raises StorageError if the file cannot be read."""
    free = shutil.disk_usage(copy.parent).free
    if free < size + SPARE_GB * 1e9:
        return f"it has {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free in {copy.parents[2]}, of which {SPARE_GB} stay so"
    staged = copy.with_name(f".{copy.name}")
    read = hashlib.sha256()
    blocks = reading.blocks(path, _BLOCK)
    try:
        with staged.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(size, 1))  # others see the space as used from now on
            for block in blocks:
                read.update(block)
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # so that the disk is read below
        written = hashlib.sha256()
        for block in reading.blocks(staged, _BLOCK):
            written.update(block)
        if written.digest() != read.digest():
            return f"the copy in {copy.parents[2]} is not equal to it"
        staged.rename(copy)
    except OSError as error:
        return f"{copy.parents[2]}: {error.strerror or error}"
    finally:
        staged.unlink(missing_ok=True)
    return ""
