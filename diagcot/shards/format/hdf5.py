"""Opens HDF5 files without their lock, whatever HDF5_USE_FILE_LOCKING says.

Nobody else writes to a shard, and some network file systems have no locks. HDF5 2.0.0 lets the variable overrule h5py's
`locking=False`, so its own driver is not used: h5py reads and writes through a Python file.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import h5py

from diagcot.jobs.state import reading


class _File(reading.File):
    """A file that keeps the error of the storage, which HDF5 may replace by one of its own."""

    error: OSError | None = None

    def readinto(self, buffer: Any, /) -> int:
        """Raises OSError."""
        try:
            return super().readinto(buffer)
        except OSError as error:
            self.error = error
            raise

    def write(self, data: Any, /) -> int:
        """Write all of it. Raises OSError."""
        view, done = memoryview(data).cast("B"), 0
        try:
            while done < len(view):  # write(2) may take less than it is given
                done += super().write(view[done:]) or 0
        except OSError as error:
            self.error = error
            raise
        return done


@contextmanager
def opened(path: Path, mode: Literal["r", "w"], **options: Any) -> Iterator[h5py.File]:
    """The HDF5 file. Raises OSError of the storage, or what h5py raises about the content."""
    with _File(path, "w+" if mode == "w" else "r") as source:
        try:
            with h5py.File(source, mode, **options) as file:
                yield file
        except Exception:
            if source.error is not None:
                raise source.error from None
            raise
