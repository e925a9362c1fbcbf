"""The findings of a rehearsed stage: those of its ranks, joined, and how its job ended where they are not complete."""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diagcot.console.state import output
from diagcot.jobs import Plan, entrypoints
from diagcot.jobs.slurm import sbatch
from diagcot.preflight.finding import Finding, bad, note

# What shells, `module` and loaders print when a setup line fails; the script continues all the same.
FAILED = re.compile(r"command not found|No such file|cannot |[Ee]rror|[Uu]nable to|not found", re.ASCII)
SCRIPT = re.compile(r"^\S*slurm_script: line \d+: ")  # another path and number for each job
OURS = re.compile(r"^(srun|slurmstepd|submitit)\b|Traceback|^\s")
# The first line of the suite's own: on Slurm, and of the local executor.
STARTED = (entrypoints.STARTED, "submitit INFO")


@dataclass(frozen=True)
class Row:
    """A finding about a stage, and the nodes that it was made on; none if it was made where the stage was submitted."""

    stage: str
    finding: Finding
    hosts: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The row of `findings.json`."""
        return {"stage": self.stage, "hosts": list(self.hosts), **asdict(self.finding)}


def read(plan: Plan) -> list[dict[str, Any]]:
    """What each rank wrote, by rank."""
    ranks = [json.loads(path.read_bytes()) for path in (plan.path / "checks").glob("[0-9]*.json")]
    return sorted(ranks, key=lambda row: int(row["rank"]))


def complete(plan: Plan, ranks: list[dict[str, Any]]) -> bool:
    """Whether every rank has finished its checks."""
    return len(ranks) == plan.resources.ranks and all(row["ended"] for row in ranks)


def of_stage(plan: Plan, ended: str = "") -> list[Row]:
    """All rows of a stage whose job has ended. ended: how, as the executor reports it, such as `TIMEOUT`."""
    ranks = read(plan)
    hosts: dict[Finding, list[str]] = {}
    for row in ranks:
        for finding in row["findings"]:
            hosts.setdefault(Finding(**finding), []).append(row["host"])
    rows = [Row(plan.stage, finding, tuple(dict.fromkeys(names))) for finding, names in hosts.items()]
    if not complete(plan, ranks):
        rows.append(_interrupted(plan, ranks, ended))
    if complaint := _setup_complaint(plan):
        remedy = "correct `setup` in the cluster file"
        rows.append(Row(plan.stage, note("setup", f"before the work began: {complaint}", remedy)))
    return rows


def _interrupted(plan: Plan, ranks: list[dict[str, Any]], ended: str) -> Row:
    """The row of a job that ended before its checks did."""
    how = f" ({ended})" if ended else ""
    doing = {row["doing"]: row["host"] for row in ranks if not row["ended"]}
    if doing:
        name, host = next(iter(doing.items()))
        text = f"ended{how} during the check of {name}"
        if ended == "TIMEOUT":
            text += f": {plan.resources.minutes} minutes were not enough"
        return Row(plan.stage, bad("job", text, f"its log is in {plan.path / 'out'}"), (host,))
    if ranks:
        missing = sorted(set(range(plan.resources.ranks)) - {row["rank"] for row in ranks})
        text = f"ended{how} before rank {', '.join(map(str, missing[:8]))} of {plan.resources.ranks} began its checks"
    else:
        text = f"ended{how} before its first check"
    if said := output.complaint(*_logs(plan), *sorted((plan.path / "out").glob("*.log"))):
        return Row(plan.stage, bad("job", f"{text}: {said}", f"its logs are in {plan.path}"))
    remedy = f"nothing was written to {plan.path}: do the nodes share that folder and can they write there?"
    return Row(plan.stage, bad("job", text, remedy))


def _logs(plan: Plan) -> list[Path]:
    local = plan.path / "submitit"  # of submitit's local executor
    patterns = [(plan.path / sbatch.FOLDER, "*.log"), (local, "*_log.out"), (local, "*_log.err")]
    return [path for folder, pattern in patterns for path in sorted(folder.glob(pattern))]


def _lines(path: Path) -> list[str]:
    return [line.rstrip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]


def _setup_complaint(plan: Plan) -> str:
    """The first complaint of the batch script before Python began."""
    for path in _logs(plan):
        for line in _lines(path)[:50]:
            if any(mark in line for mark in STARTED):
                break
            if FAILED.search(line) and not OURS.search(line):
                return SCRIPT.sub("", line.strip())[:300]
    return ""
