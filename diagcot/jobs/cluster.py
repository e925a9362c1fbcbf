"""What belongs to a cluster and not to a recipe: the executor, folders, and the resources of each size of job."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from diagcot.jobs.errors import UserError
from diagcot.jobs.settings import Document, Settings, load, near


class Size(Settings):
    """The resources of one job. A size is named by a launcher; a stage may override parts of it."""

    nodes: int = 1
    tasks_per_node: int = 1
    cpus: int = 1  # CPUs a task
    gpus: int = 0  # GPUs a task
    mem_gb: float | None = None  # memory a node
    minutes: int = 60
    partition: str | None = None
    array_parallelism: int = 64
    requeue: bool = True
    exclude: str | None = None  # nodes to leave out (sbatch --exclude)
    hang_minutes: float = 60  # a task that gives no sign of life for so long is ended and requeued; 0: never

    @property
    def ranks(self) -> int:
        return self.nodes * self.tasks_per_node


class Slurm(Settings):
    """Options of every job on this cluster (sbatch manual page)."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    extra: dict[str, Any] = {}


class Roots(Settings):
    """Where the products go; relative paths are relative to the project's root."""

    logs: Path = Path("logs")
    shards: Path = Path("shards")
    models: Path = Path("models")


class Cluster(Settings):
    renamed: ClassVar[Mapping[str, str]] = {"sizes": "resource_profiles"}

    name: str
    executor: Literal["slurm", "local", "debug"]
    parallel: int = 2  # local: cores to share between tasks
    setup: list[str] = []  # shell lines before the worker: module load, conda activate
    environment: dict[str, str] = {}  # variables for Slurm's commands and the jobs; $NAMES in them are filled in
    warning_seconds: int = 90  # sent this long before the time limit (sbatch --signal)
    max_attempts: int = 3
    roots: Roots = Roots()
    slurm: Slurm = Slurm()
    resource_profiles: dict[str, Size]
    stages: dict[str, dict[str, Any]] = {}

    @classmethod
    def read(cls, run_dir: Path) -> "Cluster":
        """The cluster as it was when the run was last submitted."""
        document = Document(run_dir / "cluster.yaml")
        return document.check(cls, document.value)

    def stored(self) -> dict[str, Any]:
        """The content of a run's cluster.yaml, which the code of earlier submissions reads too: with old keys."""
        row = self.model_dump(mode="json")
        for old, new in self.renamed.items():
            row[old] = row.pop(new)
        return row

    def enter(self) -> None:
        """Set the cluster's variables for this process and what it starts, except those that are set already."""
        for name, value in self.environment.items():
            os.environ.setdefault(name, os.path.expandvars(value))

    def resources(self, size: str, stage: str) -> Size:
        """The resources of a stage whose launcher asks for `size`. Raises UserError if the cluster has no such size."""
        if size not in self.resource_profiles:
            raise UserError(
                f"cluster {self.name} has no resource profile {size!r}, which stage {stage} needs"
                f"{near(size, self.resource_profiles)}"
            )
        return Size.model_validate(self.resource_profiles[size].model_dump() | self.stages.get(stage, {}))


def find_cluster(name: str, root: Path) -> Cluster:
    """The cluster `name` of slurm/clusters/, or a path to a file of one's own."""
    folder = root / "slurm" / "clusters"
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.exists():
        known = [p.stem for p in folder.glob("*.yaml")]
        raise UserError(f"unknown cluster {name!r}: it is no file in {folder.relative_to(root)}/{near(name, known)}")
    return load(path, Cluster)
