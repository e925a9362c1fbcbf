"""The options of sbatch that a person chooses for a site: for all jobs, or for those of one resource profile."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from diagcot.jobs.settings import LocatedError, Settings

DECIDED: Mapping[str, str] = {
    **dict.fromkeys(
        ("gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket"),
        "write `gpus` (of one rank), `gpu_type` and `gpu_request` in a resource profile; jobs without GPUs ask for none",
    ),
    "gres": "write `gpu_request: gres` and `gpu_type` for GPUs, and `gres` of a resource profile for anything else",
    **dict.fromkeys(("mem", "mem-per-cpu", "mem-per-gpu"), "write `mem_gb` or `mem_per_cpu_gb` in a resource profile"),
    "nodes": "write `nodes` in a resource profile",
    **dict.fromkeys(("ntasks", "ntasks-per-node"), "write `tasks_per_node` in a resource profile"),
    "cpus-per-task": "write `cpus` in a resource profile",
    "time": "write `minutes` in a resource profile",
    "exclude": "write `exclude` in a resource profile",
    "signal": "write `warning_seconds` in the cluster file",
    **dict.fromkeys(("requeue", "no-requeue"), "write `requeue` in a resource profile"),
    "clusters": "write `cluster` under `slurm`",
    **dict.fromkeys(("output", "error", "open-mode", "input"), "the suite has to find what a job prints"),
    **dict.fromkeys(("job-name", "array", "kill-on-invalid-dep"), "the suite sets it for each job"),
    **dict.fromkeys(("wrap", "parsable", "test-only", "wait"), "the suite calls sbatch itself"),
}
"""Options that `extra` may not have, because the suite sets them itself -> what to write instead, or why."""


class JobOptions(Settings):
    """Options of sbatch (its manual page). Under `slurm` for all jobs; what a resource profile says, wins for its jobs."""

    partition: str | None = Field(None, description="Partition, or several separated by commas.")
    account: str | None = Field(None, description="Account that the jobs are charged to.")
    qos: str | None = Field(None, description="Quality of service.")
    constraint: str | None = Field(None, description="Features that a node must have, such as h100.")
    reservation: str | None = Field(None, description="Reservation to run in.")
    licenses: str | None = Field(None, description="Licences, such as `matlab:2`.")
    exclusive: bool | str | None = Field(
        None, description="true: no other job on the nodes; `user`: none of another user."
    )
    switches: str | None = Field(
        None, description="Most switches between the nodes, such as `1` or `1@60` (minutes to wait)."
    )
    nice: int | None = Field(
        None, ge=-2147483645, le=2147483645, description="How much lower the priority is; 0 changes nothing."
    )
    begin: str | None = Field(None, description="Earliest start, such as `22:00` or `2026-01-31T22:00`.")
    dependency: str | None = Field(
        None, description="Jobs outside the run to wait for, such as `afterok:4711`, in addition to the run's own."
    )
    comment: str | None = Field(None, description="Comment of the jobs; null is the run and the stage.")
    wckey: str | None = Field(None, description="Workload characterisation key, where a site asks for one.")
    mail_type: str | None = Field(None, description="Events to be mailed, such as `FAIL` or `END,FAIL`.")
    mail_user: str | None = Field(None, description="Address for these mails; null is the user.")
    gpu_type: str | None = Field(None, description="Type of GPU as `sinfo -o %G` names it, such as h100.")
    gpu_request: Literal["gpus-per-node", "gpus-per-task", "gres"] | None = Field(
        None, description="The option by which the site wants GPUs to be asked for; null is gpus-per-node."
    )
    gpu_bind: str | None = Field(None, description="Binding of tasks to GPUs, such as `closest` or `none`.")
    extra: dict[str, Any] = Field({}, description="Further sbatch options by their long names without dashes.")

    @model_validator(mode="before")
    @classmethod
    def _sort_extra(cls, value: Any) -> Any:
        """Options of `extra` that have a key of their own become that key; those that the suite sets are refused."""
        if not isinstance(value, dict) or not isinstance(value.get("extra"), dict):
            return value
        own, kept = dict(value), {}
        for name, item in value["extra"].items():
            option = str(name).replace("_", "-").lstrip("-")
            key = option.replace("-", "_")
            if option in DECIDED:
                raise LocatedError(f"extra: {option!r} cannot be set here: {DECIDED[option]}", ("extra", name))
            if len(option) == 1:
                raise LocatedError(f"extra: write the long name of -{option}", ("extra", name))
            if key not in JobOptions.model_fields:
                kept[option] = item
            elif value.get(key) in (None, item):
                own[key] = str(item) if isinstance(item, int) and key not in ("nice", "exclusive") else item
            else:
                raise LocatedError(f"extra: {option!r} is {item!r}, and `{key}` is {value[key]!r}", ("extra", name))
        return own | {"extra": kept}

    @model_validator(mode="after")
    def _one_way_of_waiting(self) -> "JobOptions":
        if self.dependency and "?" in self.dependency:
            raise LocatedError("dependency: `?` is not supported: every condition must be met", ("dependency",))
        return self

    def under(self, general: "JobOptions") -> "JobOptions":
        """These options, and those of `general` that are not among them."""
        row = {name: getattr(general, name) for name in JobOptions.model_fields}
        own = {name: value for name in row if (value := getattr(self, name)) is not None}
        return JobOptions(**row | own | {"extra": general.extra | self.extra})


PLAIN = (
    *("partition", "account", "qos", "constraint", "reservation", "licenses", "exclusive", "switches", "nice", "begin"),
    *("wckey", "mail_type", "mail_user"),
)
"""Keys whose value is that of the option of the same name."""


def named(options: JobOptions) -> dict[str, Any]:
    """The options of sbatch, by their long names, that follow from these keys alone."""
    return {name.replace("_", "-"): getattr(options, name) for name in PLAIN} | options.extra
