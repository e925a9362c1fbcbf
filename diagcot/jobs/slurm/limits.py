"""Submit limits: how many jobs and array tasks Slurm accepts from this user."""

from collections.abc import Sequence
from dataclasses import dataclass

from diagcot.jobs.slurm import commands as slurm

UNLIMITED = 1 << 40
ARRAY_SIZE = 1001  # Slurm's default MaxArraySize
QUEUE_SIZE = 10_000  # Slurm's default MaxJobCount


@dataclass(frozen=True)
class Limits:
    """Limits on submission.

    array_size: most tasks of one array. submit: most jobs that this user may have in the queue, array tasks counted
    one by one. name: the Slurm setting that sets `submit`.
    """

    array_size: int
    submit: int
    name: str


def limits(
    account: str | None = None,
    qos: str | None = None,
    partition: str | None = None,
    timeout: float = slurm.TIMEOUT_S,
) -> Limits:
    """Read the limits from Slurm's configuration and, where Slurm enforces them, from the user's association and QOS.

    Raises SlurmError if slurmctld does not answer. Limits that accounting does not report are not counted.
    """
    config = slurm.config(timeout)
    bounds = [(_number(config.get("MaxJobCount", ""), QUEUE_SIZE), "MaxJobCount")]
    if "limits" in config.get("AccountingStorageEnforce", ""):
        bounds += _enforced(account, qos, (partition or "").split(","), timeout)
    submit, name = min(bounds)
    return Limits(_number(config.get("MaxArraySize", ""), ARRAY_SIZE), submit, name)


def _enforced(account: str | None, qos: str | None, partitions: Sequence[str], timeout: float) -> list[tuple[int, str]]:
    """(limit, name) of each submit limit of the user's associations, their accounts and their QOS."""
    user = slurm.user()
    bounds = []
    try:
        columns = "Account,Partition,DefaultQOS,QOS,MaxSubmitJobs,GrpSubmitJobs,User"
        rows = [row.split("|") for row in _accounting("assoc", f"format={columns}", timeout=timeout)]
        own = [row for row in rows if row[6] == user and row[0] == (account or row[0])]
        own = [row for row in own if row[1] in ("", *partitions)] or own
        accounts = {row[0] for row in own}
        qos_names = {qos} if qos else {row[2] or row[3].split(",")[0] for row in own}
        bounds += [(_number(row[4]), f"MaxSubmitJobs of account {row[0]}") for row in own]
        bounds += [
            (_number(row[5]), f"GrpSubmitJobs of account {row[0]}")
            for row in rows
            if row[0] in accounts and row[6] in ("", user)
        ]
        for line in _accounting("qos", "format=Name,MaxSubmitPU,MaxSubmitPA,GrpSubmit", timeout=timeout):
            name, *values = line.split("|")
            if name in qos_names:
                bounds += [(_number(value), f"the submit limit of QOS {name}") for value in values[:3]]
    except slurm.SlurmError:
        pass
    return [bound for bound in bounds if bound[0] < UNLIMITED]


def _accounting(*query: str, timeout: float) -> list[str]:
    return slurm.call("sacctmgr", "-n", "-P", "show", *query, timeout=timeout).splitlines()


def _number(text: str, default: int = UNLIMITED) -> int:
    return int(text) if text.isdigit() else default
