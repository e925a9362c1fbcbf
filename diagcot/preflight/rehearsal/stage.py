"""What a rehearsed stage is told: where its real counterpart will read and write, and what that one needs."""

from pathlib import Path
from typing import Any

from diagcot.jobs.settings import Settings
from launchers.stage_kind import Need


class RehearsedStage(Settings):
    """Settings of the kind `diagcot.preflight.rehearsal.node`."""

    kind: str = ""  # import path of the real stage's kind; empty: nothing to import
    needs: tuple[Need, ...] = ()
    settings: dict[str, Any] = {}  # the real stage's
    nodes: int = 1
    ranks: int = 1
    output: Path  # the real stage's; only looked at
    workspace: Path
    roots: dict[str, Path] = {}  # logs, shards, models
    probe: str  # name of the folder in each root that probe files go to
    written: tuple[str, ...] = ()  # roots that the submitting host has put its own probe file into
    python: str = ""  # the interpreter that the jobs are to run
    lock: str = ""  # the lock's stamp of its environment
    weights_gb: float = 0  # of the chain's base model; 0 where it is not known
    asks: tuple[dict[str, str], ...] = ()  # `submit`: sbatch options of each distinct kind of job
