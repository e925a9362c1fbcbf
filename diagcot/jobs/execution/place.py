"""The private place of a run on a machine: one folder for all that its processes put into temporary folders.

It is made in the first of these that will do: `$SLURM_TMPDIR`, `$TMPDIR`, `scratch` of the cluster file, `/tmp`. A folder
will do if it is writable, allows programs to be loaded, has `ROOM_GB` of free space, has a short path (sockets), and if no
other user can rename what is ours in it. The place belongs to the user alone (mode 0700). Without Slurm all tasks of a run
share it; on Slurm each process of a job has its own. It is removed when its owner ends, and by a small process if the owner
is killed. What is left where that process was killed too is removed by the user's next one on that machine, or by
`make clean` there.
"""

import atexit
import collections
import contextlib
import errno
import fcntl
import hashlib
import itertools
import mmap
import os
import re
import secrets
import shutil
import stat
import string
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from diagcot.jobs.errors import SiteError
from diagcot.jobs.owners import distrust
from diagcot.jobs.state import reading

VARIABLE = "DIAGCOT_PLACE"
_GIVEN = "DIAGCOT_GIVEN_TMPDIR"  # TMPDIR as the job was started with it
ROOM_GB = 1
SOCKET_BYTES = 107  # unix(7): the longest path of a Unix socket
# Ray's are the longest that are made: /r0/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store
_LONGEST = 3 + 1 + 42 + 21
_NAME = re.compile(r"dc[0-9a-f]{6}")
_STAGED = re.compile(r"\.dc[0-9a-f]{6,12}")  # a place before it has its name
_STAGED_S = 3600  # it gets its name at once, so one of this age has lost its maker
_PATH_BYTES = SOCKET_BYTES - _LONGEST - len("/dc012345")
_LOCK = "lock"
# Folder of the place -> variables that name it: temporary files and sockets; code that torch and Triton compile.
_FOLDERS = {"t": ("TMPDIR", "VLLM_RPC_BASE_PATH"), "i": ("TORCHINDUCTOR_CACHE_DIR",), "c": ("TRITON_CACHE_DIR",)}
# Waits for the end of its input, which ends with the owner; what the owner has started ends some seconds later.
_KEEPER = 'trap "" HUP INT TERM; cat; [ -d "$1" ] || exit 0; rm -rf -- "$1"; sleep 25; rm -rf -- "$1"'
# As `_KEEPER`, for a place that other processes use too: only the last one removes it, and never one that was made anew.
_SHARED_KEEPER = """trap "" HUP INT TERM; cat; exec 9< "$1/lock" || exit
flock -w 25 9 && [ "$1/lock" -ef /dev/fd/9 ] && rm -rf -- "$1"
"""
# Caches that hold code to be loaded. Where the user's variable names a folder that others can write, it is dropped.
_CACHES = ("TORCH_EXTENSIONS_DIR", "NUMBA_CACHE_DIR", "VLLM_CACHE_ROOT", "HF_MODULES_CACHE", "XDG_CACHE_HOME")


def candidates(scratch: str = "", environment: Mapping[str, str] = os.environ) -> dict[str, Path]:
    """Where a place may be made, in order: what names the folder -> the folder. scratch: as in the cluster file."""
    named = {
        "SLURM_TMPDIR": environment.get("SLURM_TMPDIR", ""),
        "TMPDIR": environment.get(_GIVEN, environment.get("TMPDIR", "")),
        "scratch": str(expanded(scratch, environment)) if scratch else "",
        "/tmp": "/tmp",
    }
    return {name: Path(value) for name, value in named.items() if value}


def expanded(scratch: str, environment: Mapping[str, str] = os.environ) -> Path:
    """The folder that `scratch` of a cluster file names here; TMPDIR is that of the job, not the one of its place."""
    given = {"TMPDIR": environment[_GIVEN]} if _GIVEN in environment else {}
    return Path(string.Template(scratch).safe_substitute({**environment, **given}))


def bases(scratches: Iterable[str], environment: Mapping[str, str] = os.environ) -> list[Path]:
    """The folders on this machine in which this user's processes may have made places.

    scratches: as in cluster files. A variable that only jobs have, such as $SLURM_JOB_ID, stands for any name.
    """
    folders = dict.fromkeys(candidates(environment=environment).values())
    given = collections.defaultdict(lambda: "*", environment)
    for pattern in (string.Template(scratch).safe_substitute(given) for scratch in scratches):
        found = sorted(Path("/").glob(pattern[1:])) if pattern.startswith("/") and pattern.strip("/") else []
        folders |= dict.fromkeys(path for path in found if not not_ours(path))
    return list(folders)


def unfit(base: Path) -> str:
    """Why a place cannot be made in this folder; empty if it can."""
    size = len(os.fsencode(base))
    if why := not_ours(base):
        return why
    if size > _PATH_BYTES:
        return f"its path has {size} bytes, sockets allow {_PATH_BYTES}"
    return _unusable(base)


def not_ours(base: Path) -> str:
    """Why this user cannot keep private files in this folder; empty if that works."""
    if not base.is_absolute() or not base.is_dir():
        return "is not a folder on this machine"
    if not os.access(base, os.W_OK | os.X_OK):
        return "is not writable"
    found = base.stat()
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX:
        return "other users can rename what is in it"
    return distrust(base)


def _unusable(base: Path) -> str:
    free = shutil.disk_usage(base).free / 1e9
    if free < ROOM_GB:
        return f"has {free:.1f} GB of free space, {ROOM_GB} GB are needed"
    try:
        with tempfile.TemporaryFile(dir=base) as file:
            file.write(b"\0" * mmap.PAGESIZE)
            file.flush()
            mmap.mmap(file.fileno(), mmap.PAGESIZE, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC).close()
    except PermissionError:
        return "programs cannot be loaded from it (mounted noexec)"
    except OSError as error:
        return error.strerror or str(error)
    return ""


def choose(scratch: str = "") -> tuple[Path, list[str]]:
    """The folder to make a place in, and why those before it will not do. Raises SiteError if none will do."""
    refused: list[str] = []
    for name, base in candidates(scratch).items():
        if not (why := unfit(base)):
            return base, refused
        refused.append(f"{name}={base}: {why}" if str(base) != name else f"{base}: {why}")
    raise SiteError(
        "no folder for temporary files: "
        + "; ".join(refused)
        + ". Set `scratch` in the cluster file to a folder of each"
        " node's own disk"
    )


@contextlib.contextmanager
def opened(scratch: str = "") -> Iterator[Path]:
    """The place for the length of the block; made here unless the run has one on this machine.

    Sets the variables by which torch, Triton, vLLM and Python's tempfile find it, and sets them back at the end.
    """
    if (shared := current()) is not None:
        yield shared
        return
    base, refused = choose(scratch)
    for line in refused:
        print(f"not used for temporary files: {line}", flush=True)
    with _made(base) as place:
        changes: dict[str, str | None] = {name: None for name in _CACHES if _open_to_others(name)}
        for name in changes:
            print(f"{name} is not used: {distrust(Path(os.environ[name]))}", flush=True)
        changes |= variables(place) | {_GIVEN: os.environ.get("TMPDIR", "")}
        before = {name: os.environ.get(name) for name in changes}
        _set(changes)
        try:
            yield place
        finally:
            _set(before)


def _open_to_others(variable: str) -> bool:
    return bool(os.environ.get(variable)) and bool(distrust(Path(os.environ[variable])))


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    tempfile.tempdir = None  # Python's own choice, made again from TMPDIR


def variables(place: Path) -> dict[str, str]:
    """What names the place to the programs that are started."""
    return {VARIABLE: str(place)} | {name: str(place / own) for own, names in _FOLDERS.items() for name in names}


def current() -> Path | None:
    """The place that this process was started with, if it is still there and ours alone."""
    return trusted(os.environ.get(VARIABLE, ""))


def trusted(name: str) -> Path | None:
    """The place of this name, if there is one and it is this user's alone."""
    place = Path(name or "/")
    with contextlib.suppress(OSError):
        found = place.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077:
            return place if _NAME.fullmatch(place.name) else None
    return None


_outside: dict[int, Path] = {}  # process id -> the place that it has made for itself outside a task


def folder(letter: str) -> Path:
    """A new folder in the place. letter: what its name begins with; the path is short enough for sockets."""
    place = current() or _outside.get(os.getpid())
    if place is None:
        stack = contextlib.ExitStack()
        place = _outside[os.getpid()] = stack.enter_context(_made(choose()[0]))
        atexit.register(stack.close)
    for number in itertools.count():
        with contextlib.suppress(FileExistsError):
            (place / f"{letter}{number}").mkdir(mode=0o700)
            return place / f"{letter}{number}"
    raise AssertionError


def sweep(base: Path) -> list[Path]:
    """Remove the user's places in `base` whose owner is gone; returns them."""
    gone = []
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(base)):
            path = Path(entry.path)
            with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
                found = entry.stat(follow_symlinks=False)
                if found.st_uid != os.geteuid() or not stat.S_ISDIR(found.st_mode):
                    continue
                if _STAGED.fullmatch(entry.name):
                    if time.time() - found.st_mtime < _STAGED_S or {*os.listdir(path)} - {_LOCK, *_FOLDERS}:
                        continue
                elif not _NAME.fullmatch(entry.name):
                    continue
                elif not _made_again(path):
                    lock = stack.enter_context(reading.File(path / _LOCK))
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
                gone.append(path)
    return gone


def _made_again(path: Path) -> bool:
    """Whether a process that outlived a place has made some of its folders again; a place that is used has its lock."""
    names = [entry.name for entry in path.iterdir()]
    return bool(names) and all(re.fullmatch(r"[a-z]\d*", name) for name in names)


@contextlib.contextmanager
def _made(base: Path) -> Iterator[Path]:
    """A new place in `base`, locked by this process while the block runs, and removed at its end."""
    sweep(base)
    place = base / f"dc{secrets.token_hex(3)}"
    staged = base / f".{place.name}"  # nobody sweeps it before it is locked
    staged.mkdir(mode=0o700)
    for name in _FOLDERS:
        (staged / name).mkdir(mode=0o700)
    with (staged / _LOCK).open("w") as lock:
        with contextlib.suppress(OSError):  # without locks on this disk no process sweeps it either
            fcntl.flock(lock, fcntl.LOCK_EX)
        staged.rename(place)
        with _kept(_KEEPER, place):
            try:
                yield place
            finally:
                _remove(place)


@contextlib.contextmanager
def _kept(script: str, place: Path) -> Iterator[None]:
    """A small process that removes what is left of a place when this process ends the block, or is killed in it."""
    keeper = subprocess.Popen(
        ["/bin/sh", "-c", script, "sh", str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )
    try:
        yield
    finally:
        assert keeper.stdin is not None
        keeper.stdin.close()
        # Where something is left, the keeper tries again later, and the task does not wait for that.
        with contextlib.suppress(subprocess.TimeoutExpired):
            keeper.wait(1)


@contextlib.contextmanager
def shared(base: Path) -> Iterator[Path]:
    """One folder in `base` for all processes of this user on this machine, for the length of the block.

    The last process that leaves it removes it, a killed one's keeper if it was the last. Raises OSError where the folder
    has no locks, and where another user has made one of this name.
    """
    sweep(base)
    place = base / f"dc{hashlib.sha256(f'shared by {os.geteuid()}'.encode()).hexdigest()[:6]}"
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(_entered(place))
        stack.enter_context(_kept(_SHARED_KEEPER, place))
        try:
            yield place
        finally:
            with contextlib.suppress(OSError):  # another process is in it: it gives up this one's share of the lock too
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(place, ignore_errors=True)


def _entered(place: Path) -> reading.File:
    """The lock of a shared place, held together with the others who are in it; the place is made if nobody is."""
    while True:
        if os.path.lexists(place) and trusted(str(place)) is None and os.path.lexists(place):
            raise PermissionError(errno.EPERM, f"{place} was made by another user, or is open to others: remove it")
        with contextlib.suppress(FileNotFoundError):
            lock = reading.File(place / _LOCK)
            fcntl.flock(lock, fcntl.LOCK_SH)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock.fileno()), (place / _LOCK).stat()):
                    return lock
            lock.close()  # the last one has just removed the place
            continue
        staged = place.with_name(f".{place.name}{secrets.token_hex(3)}")
        staged.mkdir(mode=0o700)
        (staged / _LOCK).touch()
        try:
            staged.rename(place)  # over an empty folder at most
        except OSError:
            shutil.rmtree(staged, ignore_errors=True)
            time.sleep(0.1)


def _remove(place: Path) -> None:
    """Remove a place, and try again for a second while something still writes into it."""
    end = time.monotonic() + 1
    shutil.rmtree(place, ignore_errors=True)
    while place.exists() and time.monotonic() < end:
        time.sleep(0.1)
        shutil.rmtree(place, ignore_errors=True)
