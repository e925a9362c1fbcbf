"""Starts a kind on several ranks, each its own process."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.conftest import free_ports

ROOT = Path(__file__).resolve().parents[2]
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.training.rank"])


def _rank(job: dict[str, Any], environment: dict[str, str], log: Path) -> None:
    from tests.training import rank  # the server of forks has it, and the libraries, already

    rank.main(job, environment, log)


@dataclass
class Job:
    root: Path
    stage: str
    processes: Sequence[BaseProcess]
    log: Path

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

    def events(self, name: str) -> list[dict[str, Any]]:
        """The stage's events of that name, of all its executions."""
        lines = (self.root / "logs" / "test" / self.stage / "events.jsonl").read_text().splitlines()
        return [row for row in map(json.loads, lines) if row["event"] == name]

    def ended(self, timeout: float) -> list[int | None]:
        """The ranks' exit codes. Fails the test, and ends them, if one runs on after `timeout` seconds."""
        end = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(0.0, end - time.monotonic()))
        assert all(process.exitcode is not None for process in self.processes), self._output()
        return [process.exitcode for process in self.processes]

    def wait(self, timeout: float = 400) -> str:
        """The ranks' output. Fails the test with it when one did not end well."""
        codes = self.ended(timeout)
        assert codes == [0] * len(codes), self._output()
        return self.log.read_text()

    def reach(self, step: int, timeout: float = 400) -> None:
        """Wait until `step` is in the log."""
        deadline = time.monotonic() + timeout
        while not any(row["step"] >= step for row in self.rows()):
            alive = all(process.is_alive() for process in self.processes)
            assert time.monotonic() < deadline and alive, self._output()
            time.sleep(0.02)

    def kill_after(self, step: int, timeout: float = 400, number: int = signal.SIGKILL) -> None:
        """Send all ranks a signal, SIGKILL as a rule, as soon as `step` is in the log."""
        self.reach(step, timeout)
        for process in self.processes:
            os.kill(process.pid or 0, number)
        self.ended(timeout)

    def _output(self) -> str:
        for process in self.processes:
            process.kill()
            process.join()
        return self.log.read_text() if self.log.exists() else "no output"


def start(
    root: Path,
    kind: str,
    stage: str,
    settings: dict[str, Any],
    inputs: dict[str, list[str]],
    world: int = 2,
    **job: Any,
) -> Job:
    log = root / f"{stage}.log"
    log.unlink(missing_ok=True)
    job |= {"kind": kind, "root": str(root), "stage": stage, "settings": settings, "inputs": inputs}
    job.setdefault("attempt", os.urandom(4).hex())
    port = free_ports(1 + len(job.get("further", {})))
    shared = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": str(world),
    }
    processes = [
        _FORKS.Process(target=_rank, args=(job, {**shared, "RANK": str(n), "LOCAL_RANK": str(n)}, log))
        for n in range(world)
    ]
    for process in processes:
        process.start()
    return Job(root, stage, processes, log)
