"""Starts a kind on several ranks, each its own process."""

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Job:
    root: Path
    stage: str
    processes: list[subprocess.Popen[str]]

    @property
    def workspace(self) -> Path:
        return self.root / "models" / "test" / ".work" / self.stage

    @property
    def output(self) -> Path:
        return self.root / "shards" / "test" / self.stage

    def rows(self) -> list[dict[str, Any]]:
        log = self.workspace / "train.jsonl"
        lines = log.read_text().splitlines(keepends=True) if log.is_file() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def wait(self, timeout: float = 150) -> str:
        """The ranks' output. Fails the test with it when one did not end well."""
        texts = [process.communicate(timeout=timeout)[0] for process in self.processes]
        codes = [process.returncode for process in self.processes]
        assert codes == [0] * len(codes), "\n".join(texts)
        return "\n".join(texts)

    def kill_after(self, step: int, timeout: float = 150) -> None:
        """SIGKILL all ranks as soon as `step` is in the log."""
        deadline = time.monotonic() + timeout
        while not any(row["step"] >= step for row in self.rows()):
            assert time.monotonic() < deadline and all(p.poll() is None for p in self.processes), self._output()
            time.sleep(0.02)
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.communicate()

    def _output(self) -> str:
        for process in self.processes:
            process.kill()
        return "\n".join(process.communicate()[0] for process in self.processes)


def start(
    root: Path,
    kind: str,
    stage: str,
    settings: dict[str, Any],
    inputs: dict[str, list[str]],
    world: int = 2,
    **job: Any,
) -> Job:
    path = root / f"{stage}.json"
    path.write_text(
        json.dumps({"kind": kind, "root": str(root), "stage": stage, "settings": settings, "inputs": inputs, **job})
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("rank.py")), str(path)],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]
    return Job(root, stage, processes)
