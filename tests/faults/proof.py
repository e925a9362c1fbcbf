"""The proof that a run is whole: every unit published once and never again, every record once, and nothing besides."""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diagcot.jobs.execution import place
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.state import attempts, ledger
from diagcot.jobs.state.files import digest
from tests.faults.project import STAGES, Project

GONE_S = 60  # how long the last processes of a run may take to end


class Violation(Exception):
    """A property that does not hold."""


def require(holds: object, what: str) -> None:
    if not holds:
        raise Violation(what)


class Witness:
    """Reads the manifests while a run is at work: one that has been seen stays as it is, byte by byte."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self._seen: dict[tuple[str, str], bytes] = {}

    def look(self) -> None:
        """Raises Violation if a manifest is gone or has changed since an earlier look."""
        for (stage, name), before in self._seen.items():
            path = self.project.run_dir / stage / "done" / name
            require(path.is_file() and path.read_bytes() == before, f"{stage}/done/{name} was published a second time")
        for stage in STAGES:
            for path in (self.project.run_dir / stage / "done").glob("[!.]*.json"):
                self._seen.setdefault((stage, path.name), path.read_bytes())

    def forget(self, stage: str, keys: Iterable[str]) -> None:
        """The person has removed what these units had published."""
        for key in keys:
            self._seen.pop((stage, f"{key}.json"), None)


def files(folder: Path) -> dict[str, bytes]:
    """Path inside the folder -> content of every file in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def whole(project: Project, quiet: Path) -> dict[str, int]:
    """Check the finished run against the bytes of an undisturbed one, which is made in `quiet` from the same recipe.

    Returns the numbers of units and records. Raises Violation.
    """
    undisturbed = Project(quiet, project.run)
    undisturbed.write(**project.recipe)
    undisturbed.declare("debug").submit()
    made, expected = files(project.products), files(undisturbed.products)
    differ = sorted(name for name in made.keys() | expected.keys() if made.get(name) != expected.get(name))
    require(not differ, f"products differ from those of an undisturbed run: {', '.join(differ[:5])}")
    counted = {"units": 0, "records": 0}
    for plan in project.plans():
        _stage(plan.path)
        left = sorted(path.name for path in plan.path.glob("partial/*"))
        require(not left and not plan.workspace.exists(), f"{plan.stage} has left partial work: {left[:5]}")
        names = {path.name for path in (plan.path / "done").iterdir()}
        require(names == {f"{key}.json" for key in plan.keys}, f"{plan.stage}/done holds other files than the units'")
        for key in plan.keys:
            row = ledger.manifest(plan.path, key) or {}
            (product,) = row["outputs"]
            require(digest(Path(product)) == row["outputs"][product]["sha256"], f"{product} is not what was published")
            ids = [line.split()[0] for line in Path(product).read_text().splitlines()]
            require(len(ids) == len(set(ids)) == row["counts"]["records"], f"{product}: records lost or twice")
            counted["records"] += len(ids)
        counted["units"] += len(plan.keys)
    return counted


def _stage(folder: Path) -> None:
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    require(summary["state"] == "done" and not summary["missing"], f"the summary of {folder.name} does not say done")
    require(all(row["why"] for row in summary["submissions"]), f"a submission of {folder.name} is not explained")
    require(not attempts.intended(folder), f"{folder.name} has an interrupted submission")


def nothing_left(project: Project) -> None:
    """Raise Violation if jobs, processes or temporary files of the run are left after a while."""
    end = time.monotonic() + GONE_S
    while left := [*jobs_of(project), *processes_of(project)]:
        require(time.monotonic() < end, f"left after the end: {'; '.join(left[:5])}")
        time.sleep(1)
    scratch = Path(project.recipe["scratch"])
    list(place.sweep(scratch))  # as the next job on that node does, where the process that removes a place was killed
    left = sorted(str(path) for path in scratch.glob("[!.]*"))  # a hidden one, without its name yet, waits for an hour
    require(not left, f"temporary files are left: {left[:5]}")


def jobs_of(project: Project) -> list[str]:
    """Jobs of the run that Slurm has not finished with."""
    return [f"{job.id} {job.name} {job.state}" for job in slurm.queue() if job.name.startswith(f"{project.run}.")]


def processes_of(project: Project) -> list[str]:
    """Processes of this machine that work for the run."""
    marks = (f"/logs/{project.run}/", project.recipe["scratch"])
    return [f"process {pid} {line[:200]}" for pid, line in processes() if any(mark in line for mark in marks)]


def processes() -> list[tuple[int, str]]:
    """(pid, command line) of every process of this machine."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            found.append((int(folder.name), line))
    return found
