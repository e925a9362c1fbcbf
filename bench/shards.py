"""`make bench-shards`: writing and reading shards, and what they take in memory, compared with what people use today.

Peers live in an environment of their own under build/, which finds the project's packages too, so that all contenders
run on the same Python, torch, Pillow and h5py. `--scale` does the parts of `bench.sharding.scale` instead.
"""

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / "build" / "bench" / "shards"
REQUIREMENTS = Path(__file__).parent / "requirements-shards.txt"
PARTS = ("writing", "reading", "memory")
INSIDE = "DIAGCOT_BENCH_SHARDS"


def main(argv: list[str]) -> int:
    """Run the benchmark. Returns the exit code."""
    options = argparse.ArgumentParser(prog="bench.shards", description=__doc__)
    options.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    options.add_argument("--scale", action="store_true", help="a tree of 100,000 studies instead")
    args = options.parse_args(argv)
    if INSIDE not in os.environ:
        python = str(ENVIRONMENT / "bin" / "python") if args.scale or _install() else sys.executable
        python = sys.executable if args.scale else python
        environment = os.environ | {INSIDE: "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
        return subprocess.run(
            [python, "-u", "-m", "bench.shards", *argv], check=False, env=environment, cwd=ROOT
        ).returncode
    return _measure(args.parts or PARTS, args.scale)


def _install() -> bool:
    """The peers' environment, kept for the next time; False, and why, where they cannot be had."""
    wanted = REQUIREMENTS.read_bytes()
    stamp = ENVIRONMENT / "requirements.txt"
    if stamp.exists() and stamp.read_bytes() == wanted:
        return True
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    made = subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=False, capture_output=True, text=True)
    pip = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "install", "-q", "--no-deps", "-r", str(REQUIREMENTS)]
    got = made if made.returncode else subprocess.run(pip, check=False, capture_output=True, text=True)
    if got.returncode:
        print(f"webdataset and MosaicML streaming are left out, they cannot be installed: {got.stderr[-500:]}")
        return False
    (packages,) = ENVIRONMENT.glob("lib/python*/site-packages")
    (packages / "project.pth").write_text(f"import site; site.addsitedir({sysconfig.get_paths()['purelib']!r})\n")
    stamp.write_bytes(wanted)
    return True


def _measure(parts: list[str] | tuple[str, ...], scale: bool) -> int:
    from bench.figures import Figures
    from bench.sharding import memory, reading, writing
    from bench.sharding import scale as large

    began, figures = time.monotonic(), Figures("shards-scale" if scale else "shards")
    peers = Path(sys.prefix).resolve() == ENVIRONMENT.resolve()
    _conditions(peers)
    folder = Path(tempfile.mkdtemp(prefix="bench-shards-"))
    try:
        if scale:
            large.measure(folder, figures)
        else:
            if "writing" in parts:
                writing.measure(folder / "writing", figures, peers)
            if "reading" in parts:
                reading.measure(folder / "reading", figures, peers)
            if "memory" in parts:
                memory.measure(folder / "memory", figures)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{time.monotonic() - began:.0f} s in all; load at the end {os.getloadavg()[0]:.1f}")
    print(figures.line())
    return 0


def _conditions(peers: bool) -> None:
    from PIL import features

    names = ["h5py", "pillow", "torch", *(["webdataset", "mosaicml-streaming"] if peers else [])]
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; Python {sys.version.split()[0]}, {versions},"
        f" libjpeg-turbo {features.version('libjpeg_turbo')}; everything in the page cache, temporary files on"
        f" {tempfile.gettempdir()}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
