"""Why a job waits or ended, in a sentence with the remedy (squeue manual page, JOB REASON CODES, JOB STATE CODES).

`{retry}` stands for the command that submits the stage again, or releases what is held of it.
"""

import re

SENTENCES = {
    "Dependency": "waits for an earlier stage",
    "DependencyNeverSatisfied": "what it follows failed, so it can never start: mend that, `make cancel`, submit again",
    "DEPENDENCY": "was cancelled because an earlier stage failed: runs again when that one is retried",
    "WAITING": "no room under the submit limit yet: the stage's finaliser submits it when earlier tasks have ended",
    "Priority": "other jobs come first; nothing to do",
    "Resources": "waits for nodes to become free; nothing to do",
    "BeginTime": "was requeued and starts again shortly; nothing to do",
    "Cleaning": "was requeued and its old copy is still being ended; nothing to do",
    "Prolog": "its node is being prepared; nothing to do",
    "Licenses": "waits for a licence to become free; nothing to do",
    "Reservation": "waits for its reservation to begin; nothing to do",
    "JobArrayTaskLimit": "waits for other tasks of its array (array_parallelism in the cluster file)",
    "AssocGrpGRES": "your account's GPUs are all in use; nothing to do",
    "AccountNotAllowed": "its account may not use this partition: set another of the two in the cluster file",
    "QOSNotAllowed": "its QOS may not use this partition: set another of the two in the cluster file",
    "PartitionTimeLimit": "asks for more time than its partition gives: lower minutes in the cluster file",
    "PartitionNodeLimit": "asks for more nodes than its partition has: lower nodes in the cluster file",
    "PartitionDown": "its partition is down: ask the administrators",
    "PartitionInactive": "its partition takes no jobs now: ask the administrators",
    "ReqNodeNotAvail": "nodes it needs are down or reserved: `sinfo -R` says why",
    "NodeDown": "a node it needs is down: `sinfo -R` says why",
    "BadConstraints": "no node has what it asks for: compare the cluster file with `sinfo -o '%P %f %G %m'`",
    "InvalidAccount": "its account does not exist: set another account in the cluster file",
    "InvalidQOS": "its QOS does not exist or is not yours: set another qos in the cluster file",
    "JobHeldUser": "was held by a person: `{retry}` lets it go",
    "JobHeldAdmin": "was held by Slurm, as after starting in vain too often: `{retry}` lets it go",
    "JobHoldMaxRequeue": "was requeued too often and is held: `make failures` may say why, `scontrol release` lets it go",
    "launch failed requeued held": "could not be started on its node and is held: `{retry}` lets it go",
    "OUT_OF_MEMORY": "ran out of memory",
    "TIMEOUT": "reached its time limit before its units were done",
    "DEADLINE": "its deadline passed",
    "NODE_FAIL": "its node died",
    "BOOT_FAIL": "its node did not boot",
    "PREEMPTED": "made room for another job",
    "CANCELLED": "was cancelled by a person, so nothing runs it again by itself",
    "FAILED": "ended with an error: `make logs` shows it",
    "COMPLETED": "ended without finishing its units: `make logs` shows why",
}
FAMILIES = (  # of codes that are many: accounting has a limit for everything
    (r"(Assoc|QOS).*Minutes.*", "the time of your account or QOS is used up: set another one in the cluster file"),
    (r"QOSMaxSubmit.*|Assoc.*MaxSubmit.*", "no more queued jobs are allowed now; nothing to do"),
    (r"QOSMin.*", "asks for less than its QOS wants: set another qos in the cluster file"),
    (r"(QOS|Assoc)Max.*Per(Job|Node).*|MaxMemPerLimit", "asks for more than one job may: lower it in the cluster file"),
    (r"(QOS|Assoc).*", "a limit of your account or QOS is reached until other jobs end; nothing to do"),
)


def code(reason: str) -> str:
    """The code alone: `ReqNodeNotAvail, UnavailableNodes:gpu1` has more."""
    text = reason.strip("() ").replace("_", " ") if "held" in reason else reason.strip("() ")
    return text.split(",")[0]


def sentence(reason: str, retry: str = "make retry STAGE=<stage>") -> str:
    """`reason` in words, the code in brackets; the code alone where it is not known."""
    name = code(reason)
    family = (words for pattern, words in FAMILIES if re.fullmatch(pattern, name))
    known = SENTENCES.get(name) or next(family, None)
    return f"{known.replace('{retry}', retry)} ({name})" if known else name
