"""Checks of the cluster: whether Slurm answers, and whether every size of the cluster file could start on it."""

from collections.abc import Iterator

from diagcot.jobs import Cluster
from diagcot.jobs.slurm import capacity
from diagcot.jobs.slurm import commands as slurm
from diagcot.preflight.checks import fits
from diagcot.preflight.finding import Finding, bad, good, note

TIMEOUT_S = 5
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
    for name, size in cluster.resource_profiles.items():
        yield fits(f"size {name}", size, size.partition or cluster.slurm.partition, known)
