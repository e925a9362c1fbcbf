"""Settings of a rehearsed stage: where its real counterpart will read and write, and what it needs."""

from pathlib import Path
from typing import Any

from pydantic import Field

from diagcot.jobs.settings import Settings
from launchers.stage_kind import Need


class RehearsedStage(Settings):
    """Settings of the kind `diagcot.preflight.rehearsal.node`."""

    kind: str = Field("", description="Import path of the real stage's kind; empty: nothing to import.")
    needs: tuple[Need, ...] = Field((), description="What the real stage needs on its nodes.")
    settings: dict[str, Any] = Field({}, description="Settings of the real stage.")
    nodes: int = Field(1, description="Nodes that the job should get.")
    ranks: int = Field(1, description="Processes that the job should get.")
    output: Path = Field(description="Where the real stage will write its product; not written to.")
    workspace: Path = Field(description="Where the real stage will write checkpoints and caches; not written to.")
    roots: dict[str, Path] = Field({}, description="Folders of logs, shards and models.")
    probe: str = Field(description="Name of the folder in each root that holds the probe files.")
    written: tuple[str, ...] = Field((), description="Roots in which the submitting host has written its probe file.")
    python: str = Field("", description="Interpreter that the jobs should run.")
    lock: str = Field("", description="Stamp of the lock from which the submitting host's environment was built.")
    weights_gb: float = Field(0, description="Size of the chain's base model in GB; 0 where it is not known.")
    shards_copied_to: str = Field("", description="Folder for copies of shards, with its $VARIABLES; empty: none.")
    asks: tuple[dict[str, str], ...] = Field(
        (), description="sbatch options that the finaliser must be allowed to use."
    )
