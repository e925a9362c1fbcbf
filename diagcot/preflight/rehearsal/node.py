"""The kind of every rehearsed stage: on the compute node, each rank checks and writes `checks/<rank>.json`.

What is found never fails the job, so that one rehearsal tells everything.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diagcot.jobs import Context, Result, Unit
from diagcot.jobs.state.files import write_json
from diagcot.preflight.finding import Finding, bad
from diagcot.preflight.rehearsal import collective, machine, storage
from diagcot.preflight.rehearsal.stage import RehearsedStage

OTHERS_S = 60
Check = Callable[[RehearsedStage, Context], Iterable[Finding]]


@contextmanager
def prepare(ctx: Context) -> Iterator[RehearsedStage]:
    yield RehearsedStage.model_validate(ctx.settings)


def run(unit: Unit, stage: RehearsedStage, ctx: Context) -> Result:
    """Every check in order. After each one the findings are on disk: a job that is killed leaves what it knew."""
    row: dict[str, Any] = {
        "rank": ctx.rank,
        "host": os.uname().nodename,
        "began": time.time(),
        "ended": None,
        "doing": "",
        "findings": [],
    }
    path = ctx.stage_dir / "checks" / f"{ctx.rank}.json"
    path.parent.mkdir(exist_ok=True)
    for name, check in checks(stage, ctx):
        row["doing"] = name
        write_json(path, row)
        row["findings"] += [asdict(finding) for finding in guarded(name, check, stage, ctx)]
        ctx.beat()
    row |= {"doing": "", "ended": time.time()}
    write_json(path, row)
    if ctx.rank == 0 and "SLURM_JOB_ID" not in os.environ:
        _others(path.parent, ctx)  # a laptop's runner takes rank 0's end for the end of all
    return Result(counts={"findings": len(row["findings"])})


def _others(folder: Path, ctx: Context) -> None:
    """Wait until the other ranks have ended too, or the request to stop."""
    left = {folder / f"{rank}.json" for rank in range(1, ctx.world_size)}
    end = time.monotonic() + OTHERS_S
    while left and not ctx.stopping() and time.monotonic() < end:
        left -= {path for path in left if path.exists() and json.loads(path.read_bytes())["ended"]}
        time.sleep(0.1)


def checks(stage: RehearsedStage, ctx: Context) -> list[tuple[str, Check]]:
    """The checks of this rank, quick ones first. What is the same for all ranks of a node is left to its first one."""
    needs, first = set(stage.needs), ctx.local_rank == 0
    serves, together = bool(needs & {"vllm", "ray"}), "collective" in needs and ctx.world_size > 1
    asked: list[tuple[bool, str, Check]] = [
        (True, "ranks", machine.ranks),
        (first, "environment", machine.python),
        (first, "limits", machine.limits),
        (first and "SLURM_JOB_ID" in os.environ, "Slurm", machine.commands),
        (first and serves, "sockets", machine.sockets),
        (first and (serves or together), "memory", machine.shared_memory),
        (first and "java" in needs, "Java", machine.java),
        (first and "model" in needs, "model", storage.model),
        (first and "data" in needs, "data", storage.data),
        (True, "GPUs", machine.gpus),
        # Before what may take long on some ranks only: each waits for the others no longer than its deadline.
        (together, "collective", collective.check),
        (first, "folders", storage.folders),
        (first, "privacy", storage.privacy),
        (first, "space", storage.space),
        (first, "imports", machine.imports),
    ]
    return [(name, check) for wanted, name, check in asked if wanted]


def guarded(name: str, check: Check, stage: RehearsedStage, ctx: Context) -> list[Finding]:
    """A check that fails itself is a finding, and not the end of the others."""
    found: list[Finding] = []
    try:
        found += check(stage, ctx)
    except Exception as error:
        found.append(bad(name, f"could not look: {type(error).__name__}: {error}"[:300]))
    return found
