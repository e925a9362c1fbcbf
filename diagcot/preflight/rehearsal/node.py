"""The kind of every rehearsed stage: on the compute node, each rank checks and writes `checks/<rank>.json`.

A problem never fails the job, so that one rehearsal reports all of them.
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
    """The settings of the rehearsed stage, for its one unit."""
    yield RehearsedStage.model_validate(ctx.settings)


def run(unit: Unit, stage: RehearsedStage, ctx: Context) -> Result:
    """Run every check in order. Findings are written after each one, so a job that is killed keeps those it has."""
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
        _wait_for_others(path.parent, ctx)  # a laptop's runner takes the end of rank 0 for the end of all
    return Result(counts={"findings": len(row["findings"])})


def _wait_for_others(folder: Path, ctx: Context) -> None:
    """Wait until the other ranks have ended too, or the request to stop."""
    running = {folder / f"{rank}.json" for rank in range(1, ctx.world_size)}
    end = time.monotonic() + OTHERS_S
    while running and not ctx.stopping() and time.monotonic() < end:
        running -= {path for path in running if path.exists() and json.loads(path.read_bytes())["ended"]}
        time.sleep(0.1)


def checks(stage: RehearsedStage, ctx: Context) -> list[tuple[str, Check]]:
    """The checks of this rank, quick ones first. Only the first rank of a node makes those that concern the node."""
    needs, first = set(stage.needs), ctx.local_rank == 0
    serves, together = bool(needs & {"vllm", "ray"}), "collective" in needs and ctx.world_size > 1
    possible: list[tuple[bool, str, Check]] = [
        (True, "ranks", machine.ranks),
        (first, "environment", machine.python),
        (first, "limits", machine.limits),
        (first and "SLURM_JOB_ID" in os.environ, "Slurm", machine.commands),
        (first, "scratch", machine.scratch),
        (first and (serves or together), "memory", machine.shared_memory),
        (first and "java" in needs, "Java", machine.java),
        (first and "model" in needs, "model", storage.model),
        (first and "data" in needs, "data", storage.data),
        (True, "GPUs", machine.gpus),
        # Before checks that may take long on some ranks only: each rank waits for the others until a deadline.
        (together, "collective", collective.check),
        (first, "folders", storage.folders),
        (first, "privacy", storage.privacy),
        (first, "space", storage.space),
        (first, "imports", machine.imports),
    ]
    return [(name, check) for wanted, name, check in possible if wanted]


def guarded(name: str, check: Check, stage: RehearsedStage, ctx: Context) -> list[Finding]:
    """The findings of one check. A check that fails itself is a finding, and the others go on."""
    findings: list[Finding] = []
    try:
        findings += check(stage, ctx)
    except Exception as error:
        findings.append(bad(name, f"the check failed: {type(error).__name__}: {error}"[:300]))
    return findings
