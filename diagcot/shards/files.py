"""Files that are read by offset, of which a process keeps few open, however many shards it reads."""

import os
import threading
from collections import OrderedDict
from pathlib import Path

from diagcot.jobs.state import reading

LIMIT = 128
"""Files that a process keeps open. A batch reads from few shards, and opening takes microseconds."""


class _Descriptor:
    """An open file, closed when nobody uses it any more: a thread may read from it while another one drops it."""

    def __init__(self, path: Path) -> None:
        self.number = -1
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)


class File:
    """A file that is opened at a read, and again when others took its place among the open ones.

    pread(2) has no shared position, so a forked child may use its parent's descriptor.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, size: int, offset: int) -> bytes:
        """Up to `size` bytes from `offset`. Raises StorageError, FileNotFoundError."""

        def attempt() -> bytes:
            try:
                return os.pread(self._descriptor().number, size, offset)
            except OSError:
                self.close()  # a stale descriptor stays stale
                raise

        return reading.patient(self.path, attempt)

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        _open.pop(id(self), None)

    def _descriptor(self) -> _Descriptor:
        with _lock:
            descriptor = _open.pop(id(self), None) or _Descriptor(self.path)
            _open[id(self)] = descriptor  # the last is the one that was used last
            while len(_open) > LIMIT:
                _open.popitem(last=False)
        return descriptor

    def __del__(self) -> None:
        self.close()


_open: OrderedDict[int, _Descriptor] = OrderedDict()
_lock = threading.RLock()


def _new_lock() -> None:
    """For a forked child, whose parent's lock may be held by a thread that the child does not have."""
    global _lock  # noqa: PLW0603
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_new_lock)
