"""The scripted server of the tests, in a process of its own."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-m", "tests.fakes.model_server"]


@contextlib.contextmanager
def scripted(folder: Path, **script: Any) -> Iterator[None]:
    """Servers that COMMAND starts meanwhile follow this script; `folder` gets what `serve` takes for a model."""
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (folder / "model" / "config.json").write_text("{}")
    (folder / "model" / "model.safetensors").write_bytes(b"")
    (folder / "script.json").write_text(json.dumps(script))
    os.environ["DIAGCOT_FAKE_SCRIPT"] = str(folder / "script.json")
    try:
        yield
    finally:
        del os.environ["DIAGCOT_FAKE_SCRIPT"]


def used_s(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
