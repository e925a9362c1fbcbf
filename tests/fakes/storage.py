"""A storage that fails by script: compiles `storage_faults.c`, which is preloaded into a Python of its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

RULE = "DIAGCOT_STORAGE_FAULT"
_rules = 0


def fault(call: str, number: int, part: str, times: int = 0) -> None:
    """In a Python that `run` started: let `call` (open, read, write, list, lock) fail with this errno on paths with `part`."""
    global _rules
    _rules += 1  # a rule that comes back counts its failures anew
    os.environ[RULE] = f"{call} {number} {times} {part} {_rules}"


def whole() -> None:
    """Let nothing fail."""
    os.environ.pop(RULE, None)


def library(folder: Path) -> Path:
    """The compiled shim."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler here to build the library that makes storage fail")
    path = folder / "storage_faults.so"
    source = Path(__file__).with_suffix("").with_name("storage_faults.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(path), str(source), "-ldl"], check=True)
    return path


def run(module: str, folder: Path, **environment: str) -> Any:
    """What `python -m module folder` prints last, as JSON, with the shim loaded."""
    env = {**os.environ, "LD_PRELOAD": str(library(folder)), **environment}
    done = subprocess.run(
        [sys.executable, "-m", module, str(folder)], capture_output=True, text=True, env=env, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
