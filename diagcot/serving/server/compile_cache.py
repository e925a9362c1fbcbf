"""vLLM's compiled code of a model, kept on the shared disk: the first server compiles it, the others wait for that."""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from diagcot.jobs.state import reading

POLL_S = 0.5


def cache_folder(workspace: Path) -> Path:
    """VLLM_CACHE_ROOT if the site sets it, else a folder next to the workspaces of the run's stages."""
    return Path(os.environ.get("VLLM_CACHE_ROOT") or workspace.parent / ".vllm")


def key(architecture: str, arguments: Sequence[str]) -> str:
    """Digest of everything that changes the compiled code: vLLM's version, the model's shape, the server's arguments."""
    try:
        version = importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        version = ""
    return hashlib.sha256(json.dumps([version, architecture, *arguments]).encode()).hexdigest()[:16]


@contextlib.contextmanager
def exclusive_fill(
    folder: Path, name: str, timeout_s: float, cancelled: Callable[[], bool] = lambda: False
) -> Iterator[bool]:
    """Start a server inside the block. Yields True if this server fills the cache.

    One process at a time enters until one has left without an error; after that, or after `timeout_s` seconds of waiting,
    all do. If the holder of the lock dies, the next process enters. On a file system without locks nobody waits.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    filled, deadline = folder / f"{name}.full", time.monotonic() + timeout_s
    with reading.File(folder / f"{name}.lock", "w") as lock:
        filling = False
        while not filled.exists() and time.monotonic() < deadline and not cancelled():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                filling = not filled.exists()  # another process may have filled it in between
                break
            except BlockingIOError:
                time.sleep(POLL_S)
            except OSError:
                break
        if not filling:
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_UN)
        yield filling
        if filling:
            filled.touch()
