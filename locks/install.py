"""Build the project's environment from a lock of exact versions: `python3 locks/install.py [cpu|gpu]`.

Needs only Python 3.11+ and a package index. The CPU build of torch comes from the folder that pip's own configuration
names under find-links where it is there, and otherwise from PyTorch's CPU index, which uv knows by `--torch-backend`.
"""

import hashlib
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
UV = "uv==0.13.9"
NEEDED_GB = {"cpu": 6, "gpu": 16}


def fail(message: str) -> None:
    """End with an error message."""
    sys.exit(f"error: {message}")


def run(*command: str | Path) -> None:
    """Run a command; end if it fails."""
    if subprocess.run([str(c) for c in command], check=False).returncode:
        fail(f"`{' '.join(str(c) for c in command)}` failed; its message stands above. Fix the cause and run again.")


def torch_source(python: Path, kind: str) -> list[str]:
    """Options that tell uv where torch's wheel is."""
    if kind == "gpu":
        return []
    asked = subprocess.run([python, "-m", "pip", "config", "list"], check=False, capture_output=True, text=True).stdout
    folders = [line.split("=", 1)[1].strip("' \n") for line in asked.splitlines() if "find-links" in line.split("=")[0]]
    for folder in (Path(word) for value in folders for word in value.split() if "://" not in word):
        if any(folder.glob("torch-*+cpu-*.whl")):
            return ["--find-links", str(folder)]
    return ["--torch-backend", "cpu"]


def install_project(uv: Sequence[str | Path]) -> None:
    """Install this checkout into the environment, again when its metadata changed: the `diagcot` command is in it."""
    stamp = VENV / "project"
    digest = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != digest:
        run(*uv, "--no-build-isolation", "-e", ROOT)
        stamp.write_text(digest)


def main() -> None:
    """Build .venv, unless it is that of this lock already."""
    kind = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    if kind not in NEEDED_GB:
        fail(f"unknown lock {kind!r}: use cpu or gpu")
    if not (3, 11) <= sys.version_info[:2] < (3, 13):
        fail(f"Python {sys.version.split()[0]} at {sys.executable} is not supported; run `make env PYTHON=python3.11`")
    lock = ROOT / "locks" / f"{kind}.txt"
    digest = hashlib.sha256(lock.read_bytes() + Path(__file__).read_bytes())
    stamp, wanted = VENV / "lock", f"{kind} {digest.hexdigest()}\n"
    python = VENV / "bin" / "python"
    uv = [VENV / "bin" / "uv", "pip", "install", "-q", "--python", python, "--no-deps"]
    if stamp.exists() and stamp.read_text() == wanted:
        install_project(uv)
        return
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < NEEDED_GB[kind]:
        fail(
            f"{free:.1f} GB free under {ROOT}, {NEEDED_GB[kind]} GB needed: free some space or clone onto another disk"
        )
    start = time.monotonic()
    print(f"building .venv from locks/{kind}.txt", flush=True)
    run(sys.executable, "-m", "venv", "--clear", VENV)
    run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", UV)
    print(f"  {sum(1 for _ in lock.open())} packages: fetched, unpacked, compiled; a minute or two", flush=True)
    run(*uv, "--compile-bytecode", *torch_source(python, kind), "-r", lock)
    install_project(uv)
    run(python, "-m", "diagcot.environment")
    stamp.write_text(wanted)
    print(f"environment ready in {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
