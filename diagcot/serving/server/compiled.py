"""What vLLM compiles for a model on a GPU, kept on the shared disk: the first server makes it, the others wait for that."""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

POLL_S = 0.5


def key(architecture: str, arguments: Sequence[str]) -> str:
    """Digest of what decides the compiled code: vLLM, the model's shape, the engine's arguments."""
    try:
        version = importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        version = ""
    return hashlib.sha256(json.dumps([version, architecture, *arguments]).encode()).hexdigest()[:16]


@contextlib.contextmanager
def filling(cache: Path, name: str, patience_s: float, given_up: Callable[[], bool] = lambda: False) -> Iterator[bool]:
    """Start a server inside the block; True where this one fills the cache.

    One process at a time is let in until one has left without an error; after that, and after `patience_s` seconds of
    waiting, everybody is. A holder that dies lets the next one in. Where the file system has no locks, nobody waits.
    """
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    full, end = cache / f"{name}.full", time.monotonic() + patience_s
    with (cache / f"{name}.lock").open("w") as lock:
        mine = False
        while not full.exists() and time.monotonic() < end and not given_up():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                mine = not full.exists()  # it may have been filled since we looked
                break
            except BlockingIOError:
                time.sleep(POLL_S)
            except OSError:
                break
        if not mine:
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_UN)
        yield mine
        if mine:
            full.touch()


def root(workspace: Path) -> Path:
    """The site's own VLLM_CACHE_ROOT where it is set, else a folder beside the workspaces of the run's stages."""
    return Path(os.environ.get("VLLM_CACHE_ROOT") or workspace.parent / ".vllm")
