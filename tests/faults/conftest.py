"""Disks that are small, full or read-only."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Mount = Callable[..., Path]


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this machine does not let us mount a file system ({done.stderr.strip()}); root may")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Mount]:
    """`disk(size="64k", nr_inodes=9)` mounts a tmpfs, or changes the limits of the one that is mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = False

    def make(**options: object) -> Path:
        nonlocal mounted
        words = ["remount"] if mounted else []
        words += [name if value is True else f"{name}={value}" for name, value in options.items()]
        mount("-t", "tmpfs", "-o", ",".join(words), "tmpfs", str(place))
        mounted = True
        return place

    yield make
    if mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)
