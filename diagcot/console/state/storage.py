"""Disks of a run that are full or read-only, which its own files cannot say: nothing could be written there."""

import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from diagcot.jobs.state import reading

LEAST_BYTES = 1 << 20  # with less than this no stage goes on


def faults(folders: Iterable[Path]) -> Iterator[str]:
    """One line for each file system of these folders that cannot be written."""
    seen: set[int] = set()
    for folder in folders:
        place = next((path for path in (folder, *folder.parents) if path.exists()), None)
        if place is None:
            continue
        try:
            device, about = place.stat().st_dev, os.statvfs(place)
        except OSError:
            continue
        if device not in seen and (number := _fault(about)):
            yield f"{folder}: {os.strerror(number)}: {reading.remedy(number)}"
        seen.add(device)


def _fault(about: os.statvfs_result) -> int:
    """The error that writing would give, by errno; 0 for none."""
    if about.f_flag & os.ST_RDONLY:
        return errno.EROFS
    without_inodes = about.f_files and not about.f_favail
    full = about.f_blocks and about.f_bavail * about.f_frsize < LEAST_BYTES
    return errno.ENOSPC if full or without_inodes else 0
