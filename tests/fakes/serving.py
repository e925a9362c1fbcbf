"""Starts the scripted server through the project's own `serve`."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from diagcot.jobs.testing import context
from diagcot.serving import Server, ServerSettings, serve

COMMAND = [sys.executable, "-m", "tests.fakes.model_server"]


def model_folder(root: Path) -> Path:
    folder = root / "model"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def write_script(root: Path, monkeypatch: pytest.MonkeyPatch, **script: Any) -> Path:
    path = root / "script.json"
    path.write_text(json.dumps(script))
    monkeypatch.setenv("FAKE_SCRIPT", str(path))
    return path


def settings(**values: Any) -> ServerSettings:
    return ServerSettings(
        **({"startup_timeout_s": 20, "shutdown_timeout_s": 1, "request_timeout_s": 5, "in_flight": 8} | values)
    )


@contextmanager
def fake(
    root: Path, monkeypatch: pytest.MonkeyPatch, server: dict[str, Any] | None = None, **script: Any
) -> Iterator[Server]:
    write_script(root, monkeypatch, **script)
    with serve(model_folder(root), settings(**(server or {})), context(root), command=COMMAND) as running:
        yield running


def prompts_seen(root: Path) -> list[str]:
    return [line for line in (root / "script.log").read_text().splitlines() if line != "start"]


def starts(root: Path) -> int:
    return (root / "script.log").read_text().splitlines().count("start")
