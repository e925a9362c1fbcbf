"""What belongs to a cluster and not to a recipe: the executor, folders, and the resources of each kind of job."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, PrivateAttr, ValidationError, field_validator, model_validator

from diagcot.jobs.environment import variables
from diagcot.jobs.errors import UserError
from diagcot.jobs.names import check_name, near
from diagcot.jobs.settings import Document, LocatedError, Settings
from diagcot.jobs.slurm import job_options
from diagcot.jobs.slurm.job_options import JobOptions
from diagcot.jobs.state import documents


class Size(JobOptions):
    """Resources of one job: a resource profile of the cluster, with what the cluster changes for a stage.

    What it says of partition, account and the like wins over `slurm` of the cluster file.
    """

    extends: str | None = Field(None, description="Another resource profile of the cluster, which this one changes.")
    nodes: int = Field(1, ge=1, le=100_000, description="Nodes of one job.")
    tasks_per_node: int = Field(1, ge=1, description="Ranks on each node.")
    cpus: int = Field(1, ge=1, description="CPUs of one rank.")
    gpus: int = Field(0, ge=0, description="GPUs of one rank.")
    gres: str | None = Field(None, description="Other generic resources of one node, such as `nvme:1`.")
    mem_gb: float | None = Field(
        None,
        ge=0,
        le=1_000_000,
        description="Memory of one node in GB; 0 is all of the node's; null leaves it to Slurm.",
    )
    mem_per_cpu_gb: float | None = Field(
        None, gt=0, description="Memory of one CPU in GB, instead of `mem_gb`, where a site asks for it so."
    )
    minutes: int = Field(60, ge=1, le=525_600, description="Time limit in minutes, a year at most.")
    array_parallelism: int = Field(64, ge=1, description="Most tasks of an array that run at the same time.")
    requeue: bool = Field(True, description="Let Slurm requeue the job after preemption or the failure of a node.")
    exclude: str | None = Field(None, description="Nodes to leave out, as for sbatch --exclude.")
    hang_minutes: float = Field(
        60,
        ge=0,
        le=525_600,
        description="Minutes without a sign of life after which a task is ended and requeued; 0: never.",
    )
    local_shards: bool | None = Field(
        None, description="As `local_shards` of the cluster file, for the jobs of this profile; null: as it says."
    )

    @model_validator(mode="after")
    def _one_of_each(self) -> "Size":
        if self.mem_gb is not None and self.mem_per_cpu_gb is not None:
            raise LocatedError("mem_gb and mem_per_cpu_gb exclude each other: remove one", ("mem_per_cpu_gb",))
        if self.gres and any(part.strip().startswith("gpu") for part in self.gres.split(",")):
            raise LocatedError("gres: write GPUs as `gpus`, `gpu_type` and `gpu_request: gres`", ("gres",))
        return self

    @property
    def ranks(self) -> int:
        """Ranks of one job."""
        return self.nodes * self.tasks_per_node

    @property
    def node_cpus(self) -> int:
        """CPUs of one node."""
        return self.cpus * self.tasks_per_node

    @property
    def node_gpus(self) -> int:
        """GPUs of one node."""
        return self.gpus * self.tasks_per_node

    @property
    def node_mem_gb(self) -> float | None:
        """Memory of one node in GB, in whatever form it is asked for; None leaves it to Slurm, 0 is all of the node's."""
        return self.mem_gb if self.mem_per_cpu_gb is None else self.mem_per_cpu_gb * self.node_cpus

    def with_memory(self, node_gb: float | None) -> "Size":
        """The same resources with another memory of a node, asked for in the same form."""
        if self.mem_per_cpu_gb is not None and node_gb:
            return self.model_copy(update={"mem_per_cpu_gb": node_gb / self.node_cpus})
        return self.model_copy(update={"mem_gb": node_gb, "mem_per_cpu_gb": None})

    @classmethod
    def given(cls, row: Mapping[str, Any]) -> "Size":
        """The resources in the record of a submission. Raises UserError if they are not valid."""
        try:
            return cls.model_validate(row)
        except ValidationError as error:
            raise documents.DamagedFile(
                "a record of a submission (attempts/) holds resources that are not valid: restore it from a copy, or remove it"
                " once `squeue` shows no job of the run"
            ) from error

    def stored(self) -> dict[str, Any]:
        """The content that a run's files keep; code of earlier submissions reads it too."""
        return _for_earlier_code(self)


class Slurm(JobOptions):
    """Options of every job on this cluster (sbatch manual page)."""

    cluster: str | None = Field(
        None, description="Cluster to submit to (sbatch --clusters), where the login node serves several."
    )

    @field_validator("cluster")
    @classmethod
    def _one_cluster(cls, value: str | None) -> str | None:
        if value is not None and ("," in value or value == "all"):
            raise ValueError(f"cluster: one cluster, not {value!r}: write a cluster file for each")
        return value


class Roots(Settings):
    """Where the products go. `~` and variables are filled in; relative paths begin at the project, else at the current folder."""

    logs: Path = Field(Path("logs"), description="Folder of the runs: plans, logs, state and reports.")
    shards: Path = Field(Path("shards"), description="Folder of the data that stages write.")
    models: Path = Field(Path("models"), description="Folder of the models and of the stages' private workspaces.")

    @field_validator("*")
    @classmethod
    def _filled(cls, value: Path) -> Path:
        return variables.filled_in(value)


class Container(Settings):
    """A container that the tasks run in. Finalisers run outside it, with the environment of submission."""

    image: str = Field(
        description="Image: a .sif file or docker://… for Apptainer; a .sqsh file or registry#name for Pyxis."
    )
    runtime: Literal["apptainer", "pyxis"] = Field(
        "apptainer", description="apptainer: `apptainer exec`; pyxis: `srun --container-image` (Pyxis and Enroot)."
    )
    python: str | None = Field(
        None,
        description="Interpreter inside the image, with the suite's packages; null: that of the submitting environment, which"
        " is mounted.",
    )
    mounts: list[str] = Field(
        [], description="Folders besides the run's own, as `/path` or `/path:/inside[:ro]`, such as those of the data."
    )
    nvidia: bool = Field(True, description="Apptainer only: give jobs with GPUs the drivers of the node (--nv).")
    options: list[str] = Field([], description="Further options of `apptainer exec`, or of `srun` for Pyxis.")


class Cluster(Settings):
    """A cluster file: where the jobs run, on what resources, and where their products go."""

    renamed: ClassVar[Mapping[str, str]] = {"sizes": "resource_profiles"}

    name: str = Field(description="Name of the cluster.")
    extends: str | None = Field(
        None,
        description="Another cluster file that this one changes key by key: a name in slurm/clusters/, or a path from this"
        " file's folder.",
    )
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
    network: str = Field(
        "",
        description="Network interface of the nodes that NCCL and gloo use, such as ib0, where they would choose a wrong one.",
    )
    container: Container | None = Field(None, description="The container that tasks run in; null: none.")
    scratch: str = Field(
        "",
        description="Folder on each node's own disk for temporary files, where TMPDIR names none, and for"
        " `local_shards`; $VARIABLES of the job, such as $TMPDIR, are replaced.",
    )
    local_shards: bool = Field(
        False,
        description="Tasks copy the shards that they read to `scratch`, once a node, and read the copies; worth it where"
        " they are read several times.",
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
    _file: Path | None = PrivateAttr(None)

    @model_validator(mode="before")
    @classmethod
    def _extend_profiles(cls, value: Any) -> Any:
        profiles = value.get("resource_profiles") if isinstance(value, dict) else None
        if not isinstance(profiles, dict):
            return value
        return value | {"resource_profiles": {name: _extended(name, profiles) for name in profiles}}

    @field_validator("environment")
    @classmethod
    def _variables(cls, value: dict[str, str]) -> dict[str, str]:
        if why := variables.fault(value):
            raise ValueError(why)
        return value

    @model_validator(mode="after")
    def _place_for_shards(self) -> "Cluster":
        wanted: dict[tuple[str, ...], bool | None] = {("local_shards",): self.local_shards}
        for name, size in self.resource_profiles.items():
            wanted["resource_profiles", name, "local_shards"] = size.local_shards
        for name, row in self.stages.items():
            wanted["stages", name, "local_shards"] = row.get("local_shards")
        for key, on in wanted.items():
            if on and not self.scratch:
                raise LocatedError(
                    "local_shards needs `scratch`: a folder on each node's own disk, such as $TMPDIR", key
                )
        return self

    @property
    def file(self) -> Path | None:
        """The file that it was read from, if it is known."""
        return self._file

    @classmethod
    def read(cls, run_dir: Path) -> "Cluster":
        """The cluster as it was when the run was last submitted. Raises UserError if the file is damaged or gone."""
        path = run_dir / "cluster.yaml"
        try:
            documents.read(path, documents.CLUSTER)
            document = Document(path)
            return document.check(cls, document.value)
        except documents.DamagedFile:
            raise
        except FileNotFoundError as error:
            raise documents.damaged(path, documents.CLUSTER, "it is gone") from error
        except UserError as error:
            raise documents.damaged(path, documents.CLUSTER, str(error)) from error

    def stored(self) -> dict[str, Any]:
        """The content of a run's cluster.yaml, which the code of earlier submissions reads too: with old keys."""
        row = _for_earlier_code(self) | {"slurm": _as_extra(_for_earlier_code(self.slurm))}
        row["sizes"] = {name: size.stored() for name, size in self.resource_profiles.items()}
        del row["resource_profiles"]
        return row

    def enter(self) -> None:
        """Set the cluster's variables for this process and what it starts, except those that are set already.

        Raises UserError if this shell names another cluster of Slurm than the file.
        """
        for name, value in self.environment.items():
            os.environ.setdefault(name, os.path.expandvars(value))
        if self.executor != "slurm":
            return
        for name, given in variables.clusters_of_shell().items():
            if given != self.slurm.cluster:
                raise UserError(
                    f"{name}={given} is set in this shell, and cluster {self.name} has `cluster: {self.slurm.cluster or ''}`"
                    f" under `slurm`: write {given} there, or unset {name}"
                )
        variables.select_cluster(self.slurm.cluster)

    def resources(self, size: str, stage: str) -> Size:
        """The resources of a stage whose kind names the resource profile `size`. Raises UserError if there is none."""
        if size not in self.resource_profiles:
            raise UserError(
                f"cluster {self.name} has no resource profile {size!r}, which stage {stage} needs"
                f"{near(size, self.resource_profiles)}"
            )
        return Size.model_validate(_changed(self.resource_profiles[size].model_dump(), self.stages.get(stage, {})))

    def differences(self, other: "Cluster") -> list[str]:
        """Names of the keys that `other` has otherwise."""
        return [name for name in type(self).model_fields if getattr(self, name) != getattr(other, name)]

    def finaliser(self, stage: str) -> Size:
        """The resources of a stage's finaliser."""
        return self.resources("small", f"{stage}.finaliser")

    def shards_copied_to(self, size: Size) -> str:
        """The folder, with its $VARIABLES, to which jobs of this size copy the shards that they read; empty: they do not."""
        return self.scratch if (self.local_shards if size.local_shards is None else size.local_shards) else ""

    def options(self, size: Size) -> JobOptions:
        """The options of a job of this size: its own, and those of `slurm`."""
        return size.under(self.slurm)


FIRST_KEYS: Mapping[type[Settings], str] = {
    Size: "nodes tasks_per_node cpus gpus mem_gb minutes partition array_parallelism requeue exclude hang_minutes",
    Slurm: "partition account qos constraint extra",
    Cluster: "name executor parallel setup environment warning_seconds max_attempts roots slurm resource_profiles stages",
}
"""Keys that all code knows, back to the first version; others are stored only where they have been set."""


def _for_earlier_code(settings: Settings) -> dict[str, Any]:
    """The content of the settings for code that does not know later keys."""
    fields, first = type(settings).model_fields, FIRST_KEYS[type(settings)].split()
    return {
        name: value
        for name, value in settings.model_dump(mode="json").items()
        if name in first or getattr(settings, name) != fields[name].get_default()
    }


def _as_extra(row: dict[str, Any]) -> dict[str, Any]:
    """Options of `slurm` that only later code knows, as `extra`, which all code knows."""
    first, known = FIRST_KEYS[Slurm].split(), (*job_options.PLAIN, "comment")
    later = {name: row.pop(name) for name in known if name in row and name not in first}
    return row | {"extra": row["extra"] | {name.replace("_", "-"): value for name, value in later.items()}}


def _extended(name: str, profiles: Mapping[str, Any], above: tuple[str, ...] = ()) -> Any:
    """A resource profile with what it takes over from the one that it extends."""
    own = profiles[name]
    if not isinstance(own, dict) or own.get("extends") is None:
        return own
    base = own["extends"]
    if base not in profiles or base in (name, *above):
        why = (
            "extends itself"
            if base in (name, *above)
            else f"extends {base!r}, which is not there{near(base, profiles)}"
        )
        raise LocatedError(f"profile {name} {why}", ("resource_profiles", name, "extends"))
    found = _extended(base, profiles, (name, *above))
    return _changed(found if isinstance(found, dict) else {}, {key: own[key] for key in own if key != "extends"})


def _changed(profile: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """A profile with changes; one form of memory replaces the other."""
    row = dict(profile)
    for name, other in (("mem_gb", "mem_per_cpu_gb"), ("mem_per_cpu_gb", "mem_gb")):
        if change.get(name) is not None and change.get(other) is None:
            row.pop(other, None)
    return row | dict(change)


def find_cluster(name: str, root: Path) -> Cluster:
    """The cluster `name` of slurm/clusters/, or the one of a YAML file. Raises UserError if there is none."""
    folder = root / "slurm" / "clusters"
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.exists():
        known = [p.stem for p in folder.glob("*.yaml")]
        raise UserError(f"unknown cluster {name!r}: it is not a file in {folder.relative_to(root)}/{near(name, known)}")
    return load_cluster(path)


def load_cluster(path: Path) -> Cluster:
    """The cluster of a file, with what it takes over from the one that it extends. Raises UserError with file and line."""
    document = _document(path)
    cluster = document.check(Cluster, document.value if document.value is not None else {})
    try:
        check_name(cluster.name, "name")
    except UserError as error:
        raise UserError(f"{document.where(('name',))}: {error}") from error
    cluster._file = path.resolve()
    return cluster


def _document(path: Path, above: tuple[Path, ...] = ()) -> Document:
    document = Document(path)
    document.rename(Cluster)
    if not isinstance(document.value, dict) or document.value.get("extends") is None:
        return document
    name = str(document.value["extends"])
    base = path.parent / (name if name.endswith((".yaml", ".yml")) else f"{name}.yaml")
    if not base.is_file() or base.resolve() in (path.resolve(), *above):
        why = "extends itself" if base.is_file() else f"extends {name!r}, and there is no {base}"
        raise UserError(f"{document.where(('extends',))}: {why}")
    below = _document(base, (path.resolve(), *above))
    own = {key: value for key, value in document.value.items() if key != "extends"}
    document.value = _joined(below.value if isinstance(below.value, dict) else {}, own)
    return document


def _joined(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings are joined key by key, anything else is replaced."""
    both = {
        key: _joined(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
        for key, value in own.items()
    }
    return dict(base) | both
