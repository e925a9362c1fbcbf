"""Checks of the cluster: whether Slurm answers, and whether every size of the cluster file could start on it."""

import os
from collections.abc import Iterator, Mapping

from diagcot.jobs import Cluster
from diagcot.jobs.cluster import Size
from diagcot.jobs.environment import variables
from diagcot.jobs.forecast import refusal
from diagcot.jobs.slurm import capacity
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.slurm.limits import limits
from diagcot.preflight.checks import fits
from diagcot.preflight.finding import Finding, bad, good, note

TIMEOUT_S = 5
FEWEST = 3  # jobs in the queue with which a stage still gets on: a task, its finaliser, the next finaliser
NO_ACCOUNTING = "without it, jobs that vanish are shown as unknown; the files still say what is done"


def answers(cluster: Cluster) -> Iterator[Finding]:
    """Slurm's commands, its daemons, and each size against the partition that it names."""
    if not slurm.available():
        remedy = "load your site's Slurm (module load slurm), or try `make devcluster-up` and CLUSTER=devcluster"
        yield bad("Slurm", "sbatch is not on PATH", remedy)
        return
    try:
        version = slurm.call("sinfo", "--version", timeout=TIMEOUT_S).strip()
        known = capacity.partitions(TIMEOUT_S)
    except slurm.SlurmError as error:
        remedy = "is SLURM_CONF right? `scontrol ping` shows which controller is used"
        if cluster.name == "devcluster":
            remedy = 'start it (`make devcluster-up`), then: eval "$(python3 slurm/devcluster/devcluster.py env)"'
        yield bad("Slurm", str(error), remedy)
        return
    yield good("Slurm", f"{version}, partitions {', '.join(sorted(known))}")
    try:
        slurm.call("sacct", "-X", "-n", "-S", "now", timeout=TIMEOUT_S)
        yield good("accounting", "sacct answers")
    except slurm.SlurmError as error:
        yield note("accounting", str(error), NO_ACCOUNTING)
    yield from site(cluster)
    for name, size in cluster.resource_profiles.items():
        yield _profile(cluster, name, size, known)


def _profile(cluster: Cluster, name: str, size: Size, known: Mapping[str, capacity.Partition]) -> Finding:
    """Whether a job of this profile could ever start, and whether Slurm would take it."""
    finding = fits(f"size {name}", size, size.partition or cluster.slurm.partition, known)
    if finding.level == "bad":
        return finding
    try:
        refused = refusal(cluster, size, TIMEOUT_S)
    except slurm.SlurmError as error:
        return note(finding.subject, f"{finding.text}; whether Slurm takes it is not known: {error}")
    if refused:
        remedy = "correct the profile, or partition, account, qos, wckey or constraint under `slurm`"
        return bad(finding.subject, f"Slurm would refuse it: {refused}", remedy)
    return finding


def _shell(environment: Mapping[str, str]) -> Iterator[Finding]:
    if names := variables.ignored_defaults(environment):
        text = f"{', '.join(names)}: set in this shell, and not used, so that every launcher submits the same"
        yield note("defaults", text, "write what they say into the cluster file, under `slurm` or `environment`")


def site(cluster: Cluster) -> Iterator[Finding]:
    """What this site and shell do differently from others: defaults, limits, keys, who may submit, preemption."""
    yield from _shell(os.environ)
    jobs = [cluster.options(size) for size in cluster.resource_profiles.values()]
    try:
        config, found = slurm.config(TIMEOUT_S), limits(jobs, TIMEOUT_S)
        rows = {row.get("PartitionName", ""): row for row in slurm.show("partition", timeout=TIMEOUT_S)}
    except slurm.SlurmError as error:
        yield note("limits", str(error), "submit limits are not known, and are asked again at each submission")
        return
    tightest = found.bounds[0]
    text = f"arrays of at most {found.array_size}, {tightest.most} jobs at a time ({tightest.name})"
    if tightest.most < FEWEST:
        remedy = "a stage needs a task, its finaliser and room for the next one: ask for more, or submit stage by stage"
        yield bad("limits", text, remedy)
    else:
        yield good("limits", text)
    if "wckeys" in config.get("AccountingStorageEnforce", "") and not all(options.wckey for options in jobs):
        yield note(
            "wckeys",
            "this site checks wckeys, and the cluster file names none",
            "`wckey:` under `slurm`, unless you have a default",
        )
    names = {name for options in jobs for name in (options.partition or "").split(",")} | {
        name for name, row in rows.items() if row.get("Default") == "YES" and not all(o.partition for o in jobs)
    }
    yield from _partitions({name: rows[name] for name in sorted(names) if name in rows}, config)


def _partitions(rows: Mapping[str, Mapping[str, str]], config: Mapping[str, str]) -> Iterator[Finding]:
    for name, row in rows.items():
        if (nodes := row.get("AllocNodes", "ALL")) != "ALL":
            text = f"only {nodes} may submit to {name}: finalisers on other nodes cannot resubmit what has failed"
            yield note("submission", text, "`make status` then shows the command to type there; nothing is cancelled")
        preempted = (
            row.get("PreemptMode", "OFF") not in ("OFF", "N/A") and config.get("PreemptType", "(null)") != "(null)"
        )
        if preempted and row.get("GraceTime", "0") == "0":
            text = f"jobs in {name} are preempted without a warning (GraceTime 0)"
            yield note("preemption", text, "work since the last record or checkpoint is done again")
