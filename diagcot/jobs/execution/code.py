"""The code that jobs run: a snapshot made at submission, so that a job that starts days later runs what was submitted."""

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2]
COPIERS = 8


def sources(roots: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """(file, its path inside the snapshot) of every file of these packages and modules, caches left out."""
    for root in roots:
        if root.is_file():
            yield root, Path(root.name)
        for folder, folders, names in os.walk(root):
            folders[:] = sorted(name for name in folders if name != "__pycache__")
            for name in sorted(names):
                if not name.endswith(".pyc"):
                    yield Path(folder) / name, (Path(folder) / name).relative_to(root.parent)


def digest(roots: Sequence[Path]) -> str:
    """A short sha256 of the names and contents of these packages and modules."""
    total = hashlib.sha256()
    for path, name in sources(roots):
        total.update(f"{name}\n".encode() + path.read_bytes())
    return total.hexdigest()[:12]


def snapshot(roots: Sequence[Path], target: Path) -> None:
    """Copy the code to `target`, unless it exists."""
    if target.exists():
        return
    staged = target.with_name(f".{target.name}.{os.getpid()}")
    copies = [(path, staged / name) for path, name in sources(roots)]
    for folder in {copy.parent for _, copy in copies}:
        folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(COPIERS) as pool:  # a file server answers many requests in the time of one
        for _ in pool.map(lambda pair: shutil.copyfile(*pair), copies):
            pass
    try:
        staged.rename(target)
    except OSError:  # another launcher was first; its copy has the same digest
        shutil.rmtree(staged, ignore_errors=True)
