"""Submit limits: how many jobs and array tasks Slurm accepts from this user, wherever Slurm keeps the limit."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.slurm.job_options import JobOptions

UNLIMITED = 1 << 40
ARRAY_SIZE = 1001  # Slurm's default MaxArraySize
QUEUE_SIZE = 10_000  # Slurm's default MaxJobCount
ASSOCIATION = "Account,Partition,DefaultQOS,QOS,MaxSubmitJobs,GrpSubmitJobs,User,ParentName"


@dataclass(frozen=True, order=True)
class Bound:
    """A limit on the jobs of this user in the queue, array tasks counted one by one.

    name: the Slurm setting. account, qos, partition: it counts only jobs of that one; empty: all. default: it also counts
    jobs that name no account, QOS or partition.
    """

    most: int
    name: str
    account: str = ""
    qos: str = ""
    partition: str = ""
    default: bool = True

    def holds(self, options: JobOptions) -> bool:
        """Whether it limits jobs with these options."""
        for own, named in (
            (self.account, options.account),
            (self.qos, options.qos),
            (self.partition, options.partition),
        ):
            if own and not (own in named.split(",") if named else self.default):
                return False
        return True

    def counts(self, job: slurm.Job) -> bool:
        """Whether a job of the queue counts against it."""
        pairs = ((self.account, job.account), (self.qos, job.qos), (self.partition, job.partition))
        return all(not own or not value or own in value.split(",") for own, value in pairs)


@dataclass(frozen=True)
class Limits:
    """Limits on submission. array_size: most tasks of one array."""

    array_size: int
    bounds: tuple[Bound, ...]


def limits(jobs: Sequence[JobOptions] = (), timeout: float = slurm.TIMEOUT_S) -> Limits:
    """The limits for jobs of these options: of Slurm's configuration and, where they are enforced, of the user's
    associations, their accounts, the QOS of the jobs and those of their partitions.

    Raises SlurmError if slurmctld does not answer. Limits that accounting does not report are not counted.
    """
    config = slurm.config(timeout)
    bounds = {Bound(_number(config.get("MaxJobCount", ""), QUEUE_SIZE), "MaxJobCount")}
    if "limits" in config.get("AccountingStorageEnforce", ""):
        try:
            rows = list(_associations(config.get("ClusterName", ""), timeout))
            different = {(options.account, options.qos, options.partition): options for options in jobs}
            for options in different.values() or [JobOptions()]:
                bounds |= set(_enforced(options, rows, timeout))
        except slurm.SlurmError:
            pass
    found = tuple(sorted(bound for bound in bounds if bound.most < UNLIMITED))
    return Limits(_number(config.get("MaxArraySize", ""), ARRAY_SIZE), found)


def _associations(cluster: str, timeout: float) -> Iterator[dict[str, str]]:
    where = ["where", f"cluster={cluster}"] if cluster else []
    for line in _accounting("assoc", *where, f"format={ASSOCIATION}", timeout=timeout):
        yield dict(zip(ASSOCIATION.split(","), line.split("|"), strict=False))


def _enforced(options: JobOptions, rows: Sequence[dict[str, str]], timeout: float) -> Iterator[Bound]:
    """Each submit limit of jobs with these options. rows: all associations that the user may see."""
    user, partitions = slurm.user(), _partitions(options, timeout)
    own = [row for row in rows if row["User"] == user and row["Account"] == (options.account or row["Account"])]
    own = [row for row in own if row["Partition"] in ("", *partitions)] or own
    parents = {row["Account"]: row["ParentName"] for row in rows if not row["User"]}
    for row in own:
        account = row["Account"]
        yield Bound(_number(row["MaxSubmitJobs"]), f"MaxSubmitJobs of account {account}", account)
        yield Bound(_number(row["GrpSubmitJobs"]), f"GrpSubmitJobs of account {account}", account)
        above = account
        while above and above in parents:  # a parent's limit counts the jobs of all its accounts
            counted = account if above == account else ""
            for group in (group for group in rows if group["Account"] == above and not group["User"]):
                yield Bound(_number(group["GrpSubmitJobs"]), f"GrpSubmitJobs of account {above}", counted)
            above = parents.pop(above)
    names = {options.qos: ""} if options.qos else {row["DefaultQOS"] or row["QOS"].split(",")[0]: "" for row in own}
    names |= {qos: partition for partition, qos in partitions.items() if qos}
    for line in _accounting("qos", "format=Name,MaxSubmitPU,MaxSubmitPA,GrpSubmit", timeout=timeout):
        name, *values = line.split("|")
        if name not in names:
            continue
        partition = names[name]
        said = f"the submit limit of QOS {name}" + (f", that of partition {partition}" if partition else "")
        bound = Bound(min(map(_number, values[:3])), said, partition=partition, qos="" if partition else name)
        yield replace(bound, default=not options.qos if bound.qos else not options.partition)


def _partitions(options: JobOptions, timeout: float) -> dict[str, str]:
    """The partitions that these options name, or the default one -> the QOS of each; empty if it has none."""
    named = (options.partition or "").split(",") if options.partition else []
    found = {}
    for row in slurm.show("partition", timeout=timeout):
        name = row.get("PartitionName", "")
        if name in named or (not named and row.get("Default") == "YES"):
            qos = row.get("QoS", "")
            found[name] = "" if qos in ("N/A", "(null)") else qos
    return found


def _accounting(*query: str, timeout: float) -> list[str]:
    return slurm.call("sacctmgr", "-n", "-P", "show", *query, timeout=timeout).splitlines()


def _number(text: str, default: int = UNLIMITED) -> int:
    return int(text) if text.isdigit() else default
