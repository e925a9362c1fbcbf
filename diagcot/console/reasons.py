"""Why a job waits or ended, in a sentence with the remedy (squeue manual page, JOB REASON CODES, JOB STATE CODES)."""

SENTENCES = {
    "Dependency": "waits for an earlier stage",
    "DependencyNeverSatisfied": "an earlier stage failed, so it can never start: mend and submit that stage again",
    "Priority": "other jobs come first; nothing to do",
    "Resources": "waits for nodes to become free; nothing to do",
    "BeginTime": "was requeued and starts again shortly",
    "JobArrayTaskLimit": "waits for other tasks of its array (array_parallelism in the cluster file)",
    "QOSMaxJobsPerUserLimit": "your QOS allows no more jobs at once; nothing to do",
    "QOSMaxSubmitJobPerUserLimit": "your QOS allows no more queued jobs: submit again when some have ended",
    "AssocGrpGRES": "your account's GPUs are all in use; nothing to do",
    "AssocGrpGRESMinutes": "your account's GPU time is used up: set another account in the cluster file",
    "AssocMaxJobsLimit": "your account allows no more jobs at once; nothing to do",
    "InvalidAccount": "its account does not exist: set another account in the cluster file",
    "InvalidQOS": "its QOS does not exist or is not yours: set another qos in the cluster file",
    "AccountNotAllowed": "its account may not use this partition: set another of the two in the cluster file",
    "QOSNotAllowed": "its QOS may not use this partition: set another of the two in the cluster file",
    "PartitionTimeLimit": "asks for more time than its partition gives: lower minutes in the cluster file",
    "PartitionNodeLimit": "asks for more nodes than its partition has: lower nodes in the cluster file",
    "PartitionDown": "its partition is down: ask the administrators",
    "ReqNodeNotAvail": "nodes it needs are down or reserved: `sinfo -R` says why",
    "BadConstraints": "no node has what it asks for: compare the cluster file with `sinfo -o '%P %f %G %m'`",
    "JobHeldUser": "was held by a person: `scontrol release` lets it go",
    "JobHeldAdmin": "failed to start too often and was held: `scontrol release` tries again",
    "launch failed requeued held": "could not be started on its node: `scontrol release` tries again",
    "OUT_OF_MEMORY": "ran out of memory: raise mem_gb of its size in the cluster file and submit again",
    "TIMEOUT": "reached its time limit: submit again to continue, or raise minutes in the cluster file",
    "NODE_FAIL": "its node died: submit again to continue",
    "BOOT_FAIL": "its node did not boot: submit again",
    "PREEMPTED": "made room for another job: submit again to continue",
    "CANCELLED": "was cancelled: submit again to continue",
    "FAILED": "ended with an error: `make logs` shows it",
    "COMPLETED": "ended without finishing its units: `make logs` shows why",
}


def sentence(reason: str) -> str:
    """`reason` in words; the code itself where it is not known."""
    reason = reason.strip("()")
    known = SENTENCES.get(reason)
    return f"{known} ({reason})" if known else reason
