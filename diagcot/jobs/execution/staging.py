"""A folder beside a target in which something is made that then takes its place at once: an archive, an unpacked run.

It is removed when its owner ends. What an owner that was killed has left is removed by the next one beside it, or by
`make clean`. A lease in the folder tells a dead owner from a living one, also from one on another machine.
"""

import contextlib
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from diagcot.jobs.lease import is_held, lease
from diagcot.jobs.state.files import drop_acl, remove
from diagcot.jobs.state.processes import signals_as_interrupts

NAMES = (".pack.", ".unpack.")
"""What the names of such folders begin with."""
_OWNER = "owner"
_NEW_S = 3600  # a folder has its lease at once, so one of this age without any has lost its owner


@contextlib.contextmanager
def staged(base: Path, name: str) -> Iterator[Path]:
    """A new private folder in `base` for the length of the block; leftovers of dead processes are removed first.

    name: one of `NAMES`. SIGTERM and SIGHUP end the block like Ctrl-C.
    """
    sweep(base)
    with signals_as_interrupts():
        try:
            folder = Path(tempfile.mkdtemp(prefix=name, dir=base))
        except OSError as error:
            error.filename = str(base)  # the random name says nothing to a user
            raise
        drop_acl(folder)
        try:
            with lease(folder / _OWNER):
                yield folder
        finally:
            remove(folder, base)


def shown(message: str) -> str:
    """A message without the random names of such folders, which are gone when it is read."""
    return re.sub(rf"(?<=/)(?:{'|'.join(map(re.escape, NAMES))})[^/\s]+(?:/|$)", "", message)


def sweep(base: Path) -> list[Path]:
    """Remove this user's staged folders in `base` whose owner is dead; returns them."""
    gone = list[Path]()
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(base)):
            with contextlib.suppress(OSError):
                if entry.name.startswith(NAMES) and _is_left(entry):
                    remove(Path(entry.path), base, strict=True)
                    gone.append(Path(entry.path))
    return gone


def _is_left(entry: os.DirEntry[str]) -> bool:
    found = entry.stat(follow_symlinks=False)
    if found.st_uid != os.geteuid() or not entry.is_dir(follow_symlinks=False):
        return False
    held = is_held(Path(entry.path) / _OWNER)
    return time.time() - found.st_mtime > _NEW_S if held is None else not held
