"""Writes run directories in any state, for the tests of the screens."""

import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

SIZE = {
    "nodes": 1, "tasks_per_node": 1, "cpus": 2, "gpus": 0, "mem_gb": 4.0, "minutes": 60, "partition": "gpu",
    "array_parallelism": 64, "requeue": True,
}  # fmt: skip


class FakeStage:
    """A stage of `units` units in `tasks` equal tasks, all pending."""

    def __init__(self, run: Path, name: str, units: int, tasks: int = 1, number: str = "1", **plan: Any) -> None:
        self.path = run / name
        self.path.mkdir(parents=True)
        self.keys = [f"{i:05d}" for i in range(units)]
        bounds = [i * units // tasks for i in range(tasks + 1)]
        self.tasks = list(itertools.pairwise(bounds))
        self.plan = {
            "run": run.name, "stage": name, "number": number, "kind": f"diagcot.{name}", "units": units,
            "tasks": tasks, "after": [], "resources": SIZE, "created": time.time(), "startup_s": 60, "unit_s": 30,
            "settings": {}, "inputs": {}, "output": f"out/{name}", "workspace": f"work/{run.name}/.work/{name}",
            "shards_root": "out", "seed": 1, "stage_dir": str(self.path), "code": "", "cluster": "", "setup": [],
        } | plan  # fmt: skip
        self.write("plan.json", self.plan)
        (self.path / "units.jsonl").write_text("".join(json.dumps({"key": key}) + "\n" for key in self.keys))

    def write(self, name: str, value: Any) -> Path:
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(value))
        return path

    def done(self, first: int, last: int, when: float | None = None) -> None:
        (self.path / "done").mkdir(exist_ok=True)
        for key in self.keys[first:last]:
            path = f"{self.path}/done/{key}.json"
            with open(path, "w") as out:  # noqa: PTH123  (thousands of them)
                out.write(f'{{"unit": "{key}", "outputs": {{}}, "counts": {{}}}}')
            if when is not None:
                os.utime(path, (when, when))
        if when is not None:
            os.utime(self.path / "done", (when, when))

    def started(self, when: float, *runs: tuple[int, str]) -> None:
        """The stage began then, with these (task, attempt)."""
        rows = [{"task": f"{slot:05d}", "attempt": attempt} for slot, attempt in runs] or [{}]
        lines = [json.dumps({"time": when, "event": "started"} | row) for row in rows]
        (self.path / "events.jsonl").write_text("\n".join(lines) + "\n")

    def submitted(
        self, jobs: dict[str, list[int]], number: int = 0, age: float = 0, finaliser: str = "", **size: Any
    ) -> None:
        """Jobs are named `<run>.<stage>.<number>`, finalisers `<run>.<stage>.finaliser`."""
        name = f"{self.path.parent.name}.{self.path.name}"
        arrays = [
            {"job": job, "slots": slots, "name": f"{name}.{number}", "resources": SIZE | size}
            for job, slots in jobs.items()
        ]
        row = {"number": number, "arrays": arrays, "time": time.time() - age}
        if finaliser:
            row |= {"finaliser": finaliser, "finaliser_name": f"{name}.finaliser"}
        self.write(f"attempts/{number}.json", row)

    def log(self, slot: int, attempt: str, text: str = "", age: float = 0) -> Path:
        path = self.path / "out" / f"{slot:05d}.{attempt}.log"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        os.utime(path, (time.time() - age,) * 2)
        return path

    def progress(
        self, slot: int, attempt: str, done: float, total: float, pid: int, host: str = "", **figures: Any
    ) -> None:
        row = {
            "task": f"{slot:05d}", "attempt": attempt, "host": host or os.uname().nodename, "pid": pid,
            "time": time.time(), "unit": self.keys[self.tasks[slot][0]], "done": done, "total": total,
            "figures": figures,
        }  # fmt: skip
        self.write(f"progress/{slot:05d}.json", row)

    def failure(
        self, slot: int, attempt: str, kind: str = "ValueError", message: str = "bad shape", **more: Any
    ) -> None:
        row = {
            "task": f"{slot:05d}", "attempt": attempt, "rank": 0, "unit": self.keys[self.tasks[slot][0]],
            "time": time.time(), "type": kind, "message": message, "for_user": False,
            "where": ["loop.py:10 run", "model.py:20 forward"],
        } | more  # fmt: skip
        self.write(f"failed/{slot:05d}.{attempt}.r0.json", row)


def typical_run(root: Path) -> Path:
    """A run in the middle: shards done, the teacher training, generation under way with a failure, the rest waiting."""
    run, now = root / "demo", time.time()
    run.mkdir(parents=True)
    shard = FakeStage(run, "shard", 8, 2, "0")
    shard.started(now - 400)
    shard.done(0, 8, now - 380)
    teacher = FakeStage(run, "teacher", 1, 1, "1", after=[{"stage": "shard", "each": False}], created=now + 1)
    teacher.started(now - 300)
    teacher.log(0, "12-0")
    teacher.progress(0, "12-0", 40, 100, os.getpid(), host="", **{"step": 40, "loss": 1.3217, "tokens/s": 5123.4})
    cot = FakeStage(run, "cot", 12, 4, "2", after=[{"stage": "shard", "each": True}], created=now + 2)
    cot.started(now - 120)
    cot.done(0, 4, now - 60)
    cot.log(1, "13_1-0")
    cot.progress(1, "13_1-0", 10, 30, os.getpid(), host="", **{"req/s": 14.2})
    cot.log(2, "13_2-0", "Traceback\n[boom]\n")
    cot.failure(2, "13_2-0")
    FakeStage(run, "filter", 12, 4, "2", after=[{"stage": "cot", "each": True}], created=now + 3)
    sft = {"after": [{"stage": "filter", "each": False}, {"stage": "teacher", "each": False}], "created": now + 4}
    FakeStage(run, "cot-sft-with-a-long-name", 1, 1, "2", **sft)
    return run


def built_at(run: Path) -> float:
    """When `typical_run` wrote the run; its times are relative to this."""
    first_event = json.loads((run / "shard" / "events.jsonl").read_text())
    return float(first_event["time"]) + 400.01


def fake_slurm(folder: Path, **said: str) -> Path:
    """Commands of Slurm that print what is given, or fail with what follows `!`; calls are counted in `calls`."""
    folder.mkdir()
    for name, text in {"sbatch": "", **said}.items():
        (folder / f"{name}.out").write_text(text.removeprefix("!"))
        end = 'cat "$0.out" >&2; exit 1' if text.startswith("!") else 'cat "$0.out"'
        (folder / name).write_text(f'#!/bin/sh\necho "${{0##*/}} $*" >> {folder}/calls\n{end}\n')
        (folder / name).chmod(0o755)
    return folder
