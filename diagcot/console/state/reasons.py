"""Why a job waits or ended, in a sentence with a remedy (squeue manual page, JOB REASON CODES and JOB STATE CODES).

`{retry}` stands for the command that resubmits the stage's unfinished tasks, or releases them if they are held.
"""

import re

SENTENCES = {
    "Dependency": "waits for an earlier stage",
    "DependencyNeverSatisfied": "an earlier stage failed, so it can never start: fix that, run `make cancel RUN=…`, then submit"
    " again",
    "DEPENDENCY": "cancelled because an earlier stage failed: it runs again when that stage is retried",
    "WAITING": "the submit limit is reached: the stage's finaliser submits it when earlier tasks have ended",
    "Priority": "other jobs come first; nothing to do",
    "Resources": "waits for nodes to become free; nothing to do",
    "BeginTime": "requeued and will start again soon; nothing to do",
    "Cleaning": "requeued and its previous execution is still ending; nothing to do",
    "Prolog": "its node is being prepared; nothing to do",
    "Licenses": "waits for a licence to become free; nothing to do",
    "Reservation": "waits for its reservation to begin; nothing to do",
    "JobArrayTaskLimit": "waits for other tasks of its array (array_parallelism in the cluster file)",
    "AssocGrpGRES": "your account's GPUs are all in use; nothing to do",
    "AccountNotAllowed": "its account may not use this partition: change account or partition in the cluster file",
    "QOSNotAllowed": "its QOS may not use this partition: change qos or partition in the cluster file",
    "PartitionTimeLimit": "requests more time than its partition allows: lower minutes in the cluster file",
    "PartitionNodeLimit": "requests more nodes than its partition has: lower nodes in the cluster file",
    "PartitionDown": "its partition is down: ask the administrators",
    "PartitionInactive": "its partition accepts no jobs now: ask the administrators",
    "NodeDown": "a node that it needs is down: `sinfo -R` shows why",
    "BadConstraints": "no node has the requested resources: compare the cluster file with `sinfo -o '%P %f %G %m'`",
    "InvalidAccount": "its account does not exist: correct account in the cluster file",
    "InvalidQOS": "its QOS does not exist or you may not use it: correct qos in the cluster file",
    "ReqNodeNotAvail": "nodes that it needs are down or reserved, for example for maintenance that would begin before it"
    " ends: `sinfo -R` and `scontrol show reservation` show why",
    "JobHeldUser": "held by a user: `{retry}` releases it",
    "JobHeldAdmin": "held by Slurm, for example because it failed to start too often: `{retry}` releases it",
    "JobHoldMaxRequeue": "requeued too often and is held: `make failures` may show why, `{retry}` releases it",
    "launch failed requeued held": "could not be started on its node and is held: `sinfo -R` shows whether the node's prolog"
    " failed; `{retry}` releases it",
    "OUT_OF_MEMORY": "ran out of memory",
    "TIMEOUT": "reached its time limit before its units were done",
    "DEADLINE": "its deadline passed",
    "NODE_FAIL": "its node failed",
    "BOOT_FAIL": "its node failed to boot",
    "PREEMPTED": "preempted by another job",
    "CANCELLED": "cancelled by a user, so it is not restarted automatically",
    "FAILED": "ended with an error: see `make logs`",
    "COMPLETED": "ended without finishing its units: see `make logs`",
}
FAILED_TO_START = ("launch failed requeued held", "JobHoldMaxRequeue")
"""Reasons of jobs that wait, but because they have failed before."""
FAMILIES = (  # codes that share a meaning: accounting has a limit for every resource
    (
        r"(Assoc|QOS).*Minutes.*",
        "the time budget of your account or QOS is used up: use another one in the cluster file",
    ),
    (r"QOSMaxSubmit.*|Assoc.*MaxSubmit.*", "the maximum number of queued jobs is reached; nothing to do"),
    (r"QOSMin.*", "requests less than its QOS requires: use another qos in the cluster file"),
    (
        r"(QOS|Assoc)Max.*Per(Job|Node).*|MaxMemPerLimit",
        "requests more than one job may use: lower it in the cluster file",
    ),
    (r"(QOS|Assoc).*", "a limit of your account or QOS is reached until other jobs end; nothing to do"),
)


def code(reason: str) -> str:
    """The code without details: `ReqNodeNotAvail` of `ReqNodeNotAvail, UnavailableNodes:gpu1`."""
    text = reason.strip("() ").replace("_", " ") if "held" in reason else reason.strip("() ")
    return text.split(",")[0]


def sentence(reason: str, retry: str = "make retry RUN=<run> STAGE=<stage>") -> str:
    """`reason` as a sentence with the code in brackets; only the code if it is unknown."""
    name = code(reason)
    families = (words for pattern, words in FAMILIES if re.fullmatch(pattern, name))
    words = SENTENCES.get(name) or next(families, None)
    return f"{words.replace('{retry}', retry)} ({name})" if words else name
