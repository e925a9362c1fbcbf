"""The work of every contender: it sleeps, and leaves a file that says when."""

import time
from pathlib import Path


def nap(folder: Path, stage: int, index: int, seconds: float) -> None:
    """Sleep; then write `<folder>/<stage>.<index>`: the times at which the sleep began and ended."""
    began = time.time()
    time.sleep(seconds)
    staged = folder / f".{stage}.{index}"
    staged.write_text(f"{began} {time.time()}")
    staged.rename(folder / f"{stage}.{index}")
