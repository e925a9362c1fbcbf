"""What belongs to a cluster and not to a recipe: the executor, folders, and the resources of each kind of job."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from diagcot.jobs.errors import UserError
from diagcot.jobs.settings import Document, Settings, load, near


class Size(Settings):
    """Resources of one job: a resource profile of the cluster, with what the cluster changes for a stage."""

    nodes: int = Field(1, ge=1, description="Nodes of one job.")
    tasks_per_node: int = Field(1, ge=1, description="Ranks on each node.")
    cpus: int = Field(1, ge=1, description="CPUs of one rank.")
    gpus: int = Field(0, ge=0, description="GPUs of one rank.")
    mem_gb: float | None = Field(None, gt=0, description="Memory of one node in GB; null leaves it to Slurm.")
    minutes: int = Field(60, ge=1, description="Time limit in minutes.")
    partition: str | None = Field(
        None, description="Slurm partition, or several separated by commas; null takes that of `slurm`."
    )
    array_parallelism: int = Field(64, ge=1, description="Most tasks of an array that run at the same time.")
    requeue: bool = Field(True, description="Let Slurm requeue the job after preemption or the failure of a node.")
    exclude: str | None = Field(None, description="Nodes to leave out, as for sbatch --exclude.")
    hang_minutes: float = Field(
        60, ge=0, description="Minutes without a sign of life after which a task is ended and requeued; 0: never."
    )

    @property
    def ranks(self) -> int:
        """Ranks of one job."""
        return self.nodes * self.tasks_per_node


class Slurm(Settings):
    """Options of every job on this cluster (sbatch manual page)."""

    partition: str | None = Field(None, description="Partition of the jobs whose resource profile names none.")
    account: str | None = Field(None, description="Account that the jobs are charged to.")
    qos: str | None = Field(None, description="Quality of service.")
    constraint: str | None = Field(None, description="Features that a node must have, such as h100.")
    extra: dict[str, Any] = Field({}, description="Further sbatch options by their long names without dashes.")


class Roots(Settings):
    """Where the products go. Relative paths begin at the project, or at the current folder outside it."""

    logs: Path = Field(Path("logs"), description="Folder of the runs: plans, logs, state and reports.")
    shards: Path = Field(Path("shards"), description="Folder of the data that stages write.")
    models: Path = Field(Path("models"), description="Folder of the models and of the stages' private workspaces.")


class Cluster(Settings):
    """A cluster file: where the jobs run, on what resources, and where their products go."""

    renamed: ClassVar[Mapping[str, str]] = {"sizes": "resource_profiles"}

    name: str = Field(description="Name of the cluster.")
    executor: Literal["slurm", "local", "debug"] = Field(
        description="slurm: sbatch; local: processes on this machine; debug: one unit after the other in this process."
    )
    parallel: int = Field(2, ge=1, description="Executor local: cores that are shared by the tasks.")
    setup: list[str] = Field([], description="Shell lines before the worker of each job, such as `module load cuda`.")
    environment: dict[str, str] = Field(
        {}, description="Variables for Slurm's commands and the jobs; $VARIABLES in their values are replaced."
    )
    pass_environment: list[str] = Field(
        [],
        description="Names of variables of the submitting shell that the jobs and what they start may read besides the usual"
        " ones (docs/environment.md); a name may end in *.",
    )
    scratch: str = Field(
        "",
        description="Folder on each node's own disk for temporary files, where TMPDIR names none; $VARIABLES are replaced.",
    )
    warning_seconds: int = Field(
        90, ge=0, description="Seconds before the time limit at which a job is asked to stop (sbatch --signal)."
    )
    max_attempts: int = Field(3, ge=1, description="How often a task may fail for reasons that are its own.")
    roots: Roots = Field(Roots(), description="Where the products go.")
    slurm: Slurm = Field(Slurm(), description="Options of every job.")
    resource_profiles: dict[str, Size] = Field(
        description="Resources of the jobs by the names that the kinds of stages use: cpu, small, server, train, grpo."
    )
    stages: dict[str, dict[str, Any]] = Field(
        {}, description="Name of a stage and the keys of its resource profile that are different for it."
    )

    @classmethod
    def read(cls, run_dir: Path) -> "Cluster":
        """The cluster as it was when the run was last submitted."""
        document = Document(run_dir / "cluster.yaml")
        return document.check(cls, document.value)

    def stored(self) -> dict[str, Any]:
        """The content of a run's cluster.yaml, which the code of earlier submissions reads too: with old keys."""
        row = self.model_dump(mode="json")
        for name in ("pass_environment", "scratch"):
            if not row[name]:  # unknown to them
                del row[name]
        for old, new in self.renamed.items():
            row[old] = row.pop(new)
        return row

    def enter(self) -> None:
        """Set the cluster's variables for this process and what it starts, except those that are set already."""
        for name, value in self.environment.items():
            os.environ.setdefault(name, os.path.expandvars(value))

    def resources(self, size: str, stage: str) -> Size:
        """The resources of a stage whose kind names the resource profile `size`. Raises UserError if there is none."""
        if size not in self.resource_profiles:
            raise UserError(
                f"cluster {self.name} has no resource profile {size!r}, which stage {stage} needs"
                f"{near(size, self.resource_profiles)}"
            )
        return Size.model_validate(self.resource_profiles[size].model_dump() | self.stages.get(stage, {}))


def find_cluster(name: str, root: Path) -> Cluster:
    """The cluster `name` of slurm/clusters/, or the one of a YAML file. Raises UserError if there is none."""
    folder = root / "slurm" / "clusters"
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.exists():
        known = [p.stem for p in folder.glob("*.yaml")]
        raise UserError(f"unknown cluster {name!r}: it is not a file in {folder.relative_to(root)}/{near(name, known)}")
    return load(path, Cluster)
