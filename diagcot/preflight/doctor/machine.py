"""Checks of this machine: Python, its environment, cores, memory, disk, GPUs and output folders."""

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from diagcot.jobs.environment import drivers
from diagcot.jobs.state.files import DEFAULT_ACL
from diagcot.preflight.checks import lock_stamp
from diagcot.preflight.finding import Finding, bad, good, note

MEMORY_GB = 8  # measured need of the tiny recipe, servers included
DISK_GB = 5
PACKAGES = ("torch", "transformers", "peft", "deepspeed", "ray", "submitit", "h5py", "pycocoevalcap", "rich")


def python() -> Iterator[Finding]:
    """Whether the version of Python is supported."""
    version = sys.version.split()[0]
    if (3, 11) <= sys.version_info[:2] < (3, 13):
        yield good("Python", version)
    else:
        yield bad("Python", f"{version} is not supported", "use 3.11 or 3.12: `make env PYTHON=python3.11`")


def environment(root: Path) -> Iterator[Finding]:
    """Whether the environment was built from the lock that is checked out now, and is complete."""
    kind, _, digest = lock_stamp().partition(" ")
    if not kind:
        yield bad("environment", f"{sys.prefix} was not built from a lock", "run `make env`")
        return
    expected = hashlib.sha256()
    for name in (f"locks/{kind}.txt", "locks/install.py"):
        path = root / name
        expected.update(path.read_bytes() if path.exists() else b"")
    if expected.hexdigest() != digest:
        yield note(
            "environment", f"was built from another version of locks/{kind}.txt", "run `make env` to build it again"
        )
    missing = [name for name in PACKAGES if not _version(name)]
    if missing:
        yield bad(
            "environment", f"lacks {', '.join(missing)}", "remove the folder that .venv names, and run `make env`"
        )
    else:
        versions = ", ".join(f"{name} {_version(name)}" for name in ("torch", "vllm", "deepspeed", "ray"))
        yield good("environment", f"{kind} lock: {versions}")


def resources(root: Path) -> Iterator[Finding]:
    """Cores, memory and the space of the disk that holds the project."""
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    text = f"{cores} {'core' if cores == 1 else 'cores'}, {memory:.0f} GB of memory"
    if memory < MEMORY_GB:
        yield note("machine", text, f"`make demo` needs {MEMORY_GB} GB: its servers and trainers may be killed here")
    else:
        yield good("machine", text)
    free = shutil.disk_usage(root).free / 1e9
    if free < DISK_GB:
        yield bad("disk", f"{free:.1f} GB free under {root}", f"free {DISK_GB} GB, or clone onto another disk")
    else:
        yield good("disk", f"{free:.0f} GB free under {root}")


def gpus(root: Path) -> Iterator[Finding]:
    """The GPUs of this machine, and whether the environment can use them: its lock needs a driver that is new enough."""
    cuda = drivers.cuda_of(root / "locks" / "gpu.txt")
    least, driver = drivers.least(cuda), drivers.loaded()
    lines = _output("nvidia-smi", "-L").splitlines() if shutil.which("nvidia-smi") else []
    names = [line.split(":", 1)[1].split("(")[0].strip() for line in lines if line.startswith("GPU ")]
    if names and driver and int(driver.partition(".")[0]) < least:
        text = f"{len(names)} × {names[0]} with driver {driver}: locks/gpu.txt (CUDA {cuda}) needs {least} or newer"
        yield note("GPUs", text, "use nodes with a newer driver; locks/cpu.txt needs none")
    elif names and (lock_stamp() or "cpu").startswith("cpu"):
        yield note("GPUs", f"{len(names)} × {names[0]}, but the environment is for CPUs", "run `make env LOCK=gpu`")
    elif names:
        yield good("GPUs", f"{len(names)} × {names[0]}, driver {driver}")
    else:
        text = f"none on this machine; what runs here uses its cores (locks/gpu.txt needs driver {least} or newer)"
        yield good("GPUs", text)


def outputs(folders: Sequence[Path]) -> Iterator[Finding]:
    """Whether the output folders are writable and closed to others: they may hold credentialed data."""
    for folder in folders:
        place = next(path for path in (folder, *folder.parents) if path.exists())
        try:  # rights alone do not tell of file servers, of /proc or of a user who is root
            with tempfile.TemporaryDirectory(dir=place, prefix=".doctor."):
                pass
        except OSError as error:
            what = f"{place} is not writable ({error.strerror or error})"
            yield bad("outputs", what, "change roots in the cluster file, or the folder's owner")
    # The workers' umask closes all that they write; only the folders themselves may be open.
    readable = [str(folder) for folder in folders if folder.exists() and _open_to_others(folder)]
    # A folder of another user, such as / or a shared scratch, is not this user's to close.
    foreign = [name for name in readable if name == "/" or Path(name).stat().st_uid != os.geteuid()]
    if foreign:
        remedy = "name folders of your own under `roots` in the cluster file"
        yield note(
            "privacy", f"others can list the names of runs in {' '.join(foreign)}, which is not yours to close", remedy
        )
    if own := [name for name in readable if name not in foreign]:
        names = " ".join(own)
        remedy = f"with credentialed data on a shared machine: chmod 700 {names}"
        if any(_lists(Path(name)) for name in own):
            remedy += f"; setfacl -b {names}"
        yield note("privacy", "others can list the names of runs in the output folders", remedy)
    if not readable:
        yield good("privacy", "output folders are closed to others")


def _open_to_others(folder: Path) -> bool:
    """By its mode, or by an ACL: that of the folder, or the one that what is made in it would take over."""
    return bool(_lists(folder) or folder.stat().st_mode & 0o007)


def _lists(folder: Path) -> set[str]:
    try:
        return {"system.posix_acl_access", DEFAULT_ACL} & set(os.listxattr(folder))
    except OSError:  # a file system without ACLs
        return set()


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=2, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
