"""Collects the findings of all parts, side by side, and prints them."""

import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from diagcot.console import text
from diagcot.jobs import UserError
from diagcot.preflight.doctor import data, machine
from diagcot.preflight.doctor import slurm as slurm_check
from diagcot.preflight.finding import Finding, bad, good

ROOT = Path(__file__).resolve().parents[3]
MARKS = {"good": ("✓", "green"), "note": ("!", "yellow"), "bad": ("✗", "red")}


def main(recipe: str, cluster: str) -> int:
    """Print every finding. Returns 1 if one is bad, else 0."""
    found = findings(recipe, cluster)
    screen = text.console()
    screen.print(render(found, lambda mark: text.fits(screen, mark)))
    return int(any(finding.level == "bad" for finding in found))


def findings(recipe: str, cluster: str) -> list[Finding]:
    """All findings in the order of the report; what waits for other programs runs side by side."""
    kind = _kind()
    parts: list[Callable[[], Iterable[Finding]]] = [
        machine.python,
        lambda: machine.environment(ROOT, Path(sys.prefix)),
        lambda: machine.resources(ROOT),
        lambda: machine.gpus(kind),
        machine.java,
        machine.sockets,
        data.folders,
        lambda: _chain(recipe, cluster),
    ]
    with ThreadPoolExecutor(len(parts)) as pool:
        return [finding for part in pool.map(lambda part: list(_guarded(part)), parts) for finding in part]


def _guarded(part: Callable[[], Iterable[Finding]]) -> Iterable[Finding]:
    """A check that fails itself is a finding, not the end of the report."""
    try:
        yield from part()
    except (OSError, ImportError) as error:
        yield bad("doctor", f"could not look: {error}", "run `make env`, then `make doctor` again")


def _chain(recipe: str, cluster: str) -> Iterable[Finding]:
    from diagcot.jobs import cluster as clusters
    from launchers.chain import open_chain

    try:
        found = clusters.find_cluster(cluster, ROOT)
    except UserError as error:
        yield bad("cluster", str(error), "write it from slurm/clusters/example.yaml (docs/cluster.md)")
        return
    yield good("cluster", f"{found.name}: executor {found.executor}, sizes {', '.join(found.resource_profiles)}")
    if found.executor == "slurm":
        yield from slurm_check.answers(found)
    roots = [found.roots.logs, found.roots.shards, found.roots.models]
    yield from machine.privacy([root if root.is_absolute() else ROOT / root for root in roots])
    try:
        chain = open_chain(recipe, cluster, None)
    except UserError as error:
        yield bad("recipe", str(error), "RECIPE= names a file of recipes/")
        return
    yield from data.stages(chain)


def _kind() -> str:
    stamp = Path(sys.prefix) / "lock"
    return stamp.read_text().split()[0] if stamp.exists() else "cpu"


def render(found: list[Finding], fits: Callable[[str], str]) -> RenderableType:
    """One row a finding, its remedy below it, and a last line that says whether the chain would run."""
    grid = Table(box=None, padding=(0, 1, 0, 0), show_header=False)
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for finding in found:
        mark, style = MARKS[finding.level]
        body = Text(fits(finding.text))
        if finding.remedy:
            body.append(fits(f"\n→ {finding.remedy}"), style)
        grid.add_row(Text(fits(mark), style), finding.subject, body)
    count = sum(finding.level == "bad" for finding in found)
    end = Text(f"{count} to mend before anything is submitted", "red") if count else Text("ready", "green")
    return Group(grid, Text(""), end)
