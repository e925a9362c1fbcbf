"""Pages of the documentation as things to run: the files that a page shows, and its last one, a test, run by pytest.

A page names a file in a line that ends with a colon, such as "`brevity.py`:", directly before the block with its text.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_FILE = re.compile(r"`([\w./-]+)`[^\n`]*:\n+```\w*\n(.*?)```", re.DOTALL)


def files(page: str) -> dict[str, str]:
    """Path -> text of every file that docs/`page` shows."""
    return {name: text for name, text in _FILE.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))}


def write(page: str, folder: Path) -> list[str]:
    """Write the files of a page below `folder`; returns their paths in the order of the page."""
    texts = files(page)
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return list(texts)


def checkout(folder: Path) -> Path:
    """A copy of the checkout's sources, to which a page may add files."""
    for name in ("diagcot", "launchers", "prompts", "slurm", "recipes"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def run_tests(folder: Path, *tests: str) -> None:
    """Run tests that a page shows, in `folder`, with its code before the checkout's."""
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "PYTEST_ADDOPTS": "-p no:cacheprovider"}
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, f"--rootdir={folder}", *tests]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
