"""Build the project's environment from a lock of exact versions: `python3 locks/install.py [cpu|gpu]`.

Needs only Python 3.11+ and a package index. The CPU build of torch comes from the folder that pip's own configuration
names under find-links where it is there, and otherwise from PyTorch's CPU index, which uv knows by `--torch-backend`.

An environment is built in `.venv-<digest>`, beside earlier ones, and the link `.venv` is set to it at the end. Jobs name
the folder and not the link, so a new environment changes nothing for them; `make clean` removes those that nobody uses.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINK = ROOT / ".venv"
FORMER = ROOT / ".venv-former"  # what was in place of the link before environments had digests
UV = "uv==0.13.9"
NEEDED_GB = {"cpu": 6, "gpu": 16}
COMMAND = """#!/bin/sh
# Messages name what can be typed here: make's targets, or this command (diagcot/console/commands.py).
[ -n "$MAKELEVEL" ] || export DIAGCOT_COMMAND="$0"
exec "$(dirname "$(realpath "$0")")/python" -I -X utf8 -m diagcot.cli.main "$@"
"""


def fail(message: str) -> None:
    """End with an error message."""
    sys.exit(f"error: {message}")


def environment() -> dict[str, str]:
    """The variables of what is started here: pip and uv read where packages are from them, not what is installed where."""
    sys.path.insert(0, str(ROOT))
    from diagcot.jobs.environment import variables

    return variables.child(*variables.INSTALLERS)


def run(*command: str | Path) -> None:
    """Run a command; end if it fails."""
    if subprocess.run([str(c) for c in command], check=False, env=environment()).returncode:
        fail(f"`{' '.join(str(c) for c in command)}` failed; its message stands above. Fix the cause and run again.")


def torch_source(python: Path, kind: str) -> list[str]:
    """Options that tell uv where torch's wheel is."""
    if kind == "gpu":
        return []
    command = [python, "-m", "pip", "config", "list"]
    asked = subprocess.run(command, check=False, capture_output=True, text=True, env=environment()).stdout
    folders = [line.split("=", 1)[1].strip("' \n") for line in asked.splitlines() if "find-links" in line.split("=")[0]]
    for folder in (Path(word) for value in folders for word in value.split() if "://" not in word):
        if any(folder.glob("torch-*+cpu-*.whl")):
            return ["--find-links", str(folder)]
    return ["--torch-backend", "cpu"]


def install_project(venv: Path) -> None:
    """Make this checkout importable, and write the `diagcot` command; both without a path, so that a copy has its own."""
    site = next(venv.glob("lib/python*/site-packages"))
    (site / "diagcot.pth").write_text(f"{os.path.relpath(ROOT, site)}\n")
    command = venv / "bin" / "diagcot"
    command.write_text(COMMAND)
    command.chmod(0o755)


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Only one process of this checkout builds; others wait for it."""
    with (ROOT / ".venv.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another `make env` builds the environment of this checkout; waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:  # a file system without locks
            print(f"no lock ({error.strerror}): do not run `make env` twice at the same time", flush=True)
        yield


def folder(kind: str, digest: str) -> Path:
    """Where the environment of this lock, installer and version of Python is."""
    version = "{}.{}".format(*sys.version_info)
    return ROOT / f".venv-{hashlib.sha256(f'{kind} {version} {digest}'.encode()).hexdigest()[:12]}"


def stamp(venv: Path) -> tuple[str, str]:
    """What a finished environment was built from, and where: (kind and digest, folder); empty if it is not finished."""
    try:
        built, _, place = (venv / "lock").read_text().strip().partition("\n")
    except (FileNotFoundError, NotADirectoryError):
        return "", ""
    return built, place


def write_stamp(venv: Path, built: str) -> None:
    """Say that the environment is finished."""
    staged = venv / f"lock.{os.getpid()}"
    staged.write_text(f"{built}\n{venv}\n")
    staged.replace(venv / "lock")


def relocate(venv: Path, old: str) -> None:
    """Let the scripts of a copied or moved environment name their own folder. The files of the original stay as they are."""
    for path in [venv / "pyvenv.cfg", *(venv / "bin").iterdir()]:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > 2**20:
            continue
        content = path.read_bytes()
        if old.encode() in content and b"\0" not in content:
            staged = path.with_name(f".{path.name}.{os.getpid()}")  # not in place: the copy may be a hard link
            staged.write_bytes(content.replace(old.encode(), str(venv).encode()))
            shutil.copymode(path, staged)
            staged.replace(path)


def switch(venv: Path) -> None:
    """Set the link to this environment."""
    if LINK.is_symlink() and LINK.readlink() == Path(venv.name):
        return
    if LINK.is_dir() and not LINK.is_symlink():
        shutil.rmtree(FORMER, ignore_errors=True)
        LINK.rename(FORMER)
    staged = ROOT / f".venv.{os.getpid()}"
    staged.symlink_to(venv.name)
    staged.replace(LINK)


def build(venv: Path, kind: str) -> None:
    """Build an environment in an empty folder."""
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < NEEDED_GB[kind]:
        fail(
            f"{free:.1f} GB free under {ROOT}, {NEEDED_GB[kind]} GB needed: free some space or clone onto another disk"
        )
    lock, python = ROOT / "locks" / f"{kind}.txt", venv / "bin" / "python"
    print(f"building {venv.name} from locks/{kind}.txt", flush=True)
    run(sys.executable, "-m", "venv", "--clear", venv)
    run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", UV)
    print(f"  {sum(1 for _ in lock.open())} packages: fetched, unpacked, compiled; a minute or two", flush=True)
    uv = [venv / "bin" / "uv", "pip", "install", "-q", "--python", python, "--no-deps"]
    run(*uv, "--compile-bytecode", *torch_source(python, kind), "-r", lock)
    install_project(venv)
    run(python, "-m", "diagcot.environment")


def main() -> None:
    """Set .venv to the environment of this lock; build that first, unless it is there."""
    kind = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    if kind not in NEEDED_GB:
        fail(f"unknown lock {kind!r}: use cpu or gpu")
    if not (3, 11) <= sys.version_info[:2] < (3, 13):
        fail(f"Python {sys.version.split()[0]} at {sys.executable} is not supported; run `make env PYTHON=python3.11`")
    digest = hashlib.sha256((ROOT / "locks" / f"{kind}.txt").read_bytes() + Path(__file__).read_bytes()).hexdigest()
    venv, built = folder(kind, digest), f"{kind} {digest}"
    if LINK.resolve() == venv and stamp(venv) == (built, str(venv)):
        return  # nothing is written: the checkout may belong to somebody else
    if not os.access(ROOT, os.W_OK):
        fail(f"{ROOT} is not yours, and has no environment for locks/{kind}.txt: its owner runs `make env LOCK={kind}`")
    with locked():
        start = time.monotonic()
        found, place = stamp(venv)
        if found != built:
            build(venv, kind)
            write_stamp(venv, built)
            print(f"environment ready in {time.monotonic() - start:.0f} s", flush=True)
        elif place != str(venv):
            relocate(venv, place)
            write_stamp(venv, built)
        switch(venv)


if __name__ == "__main__":
    main()
