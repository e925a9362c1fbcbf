"""`make doctor`: runs all checks of this host at the same time, and shows their findings."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from diagcot.console import text
from diagcot.jobs import UserError, find_cluster
from diagcot.preflight import checks
from diagcot.preflight import screen as screens
from diagcot.preflight.doctor import data, machine
from diagcot.preflight.doctor import slurm as slurm_check
from diagcot.preflight.finding import Finding, bad, good

ROOT = Path(__file__).resolve().parents[3]


def main(recipe: str, cluster: str) -> int:
    """Print every finding. Returns 1 if one is bad, else 0."""
    rows = findings(recipe, cluster)
    screen = text.console()
    screen.print(render(rows, screen))
    return int(any(finding.level == "bad" for finding in rows))


def findings(recipe: str, cluster: str) -> list[Finding]:
    """All findings in the order of the report."""
    parts: list[Callable[[], Iterable[Finding]]] = [
        machine.python,
        lambda: machine.environment(ROOT),
        lambda: machine.resources(Path.cwd()),
        lambda: machine.gpus(ROOT),
        checks.java,
        lambda: checks.place(_scratch(cluster)),
        data.folders,
        lambda: _chain(recipe, cluster),
    ]
    with ThreadPoolExecutor(len(parts)) as pool:
        return [finding for part in pool.map(lambda part: list(_guarded(part)), parts) for finding in part]


def _scratch(cluster: str) -> str:
    """The cluster's folder for temporary files; empty where its file is wrong, which is a finding of its own."""
    try:
        return find_cluster(cluster, ROOT).scratch
    except UserError:
        return ""


def _guarded(part: Callable[[], Iterable[Finding]]) -> Iterable[Finding]:
    """A check that fails itself is a finding, and the report goes on."""
    try:
        yield from part()
    except (OSError, ImportError) as error:
        yield bad("doctor", f"a check failed: {error}", "run `make env`, then `make doctor` again")


def _chain(recipe: str, cluster: str) -> Iterable[Finding]:
    from launchers.chain import open_chain, roots_folder

    try:
        site = find_cluster(cluster, ROOT)
    except UserError as error:
        yield bad("cluster", str(error), "write it from slurm/clusters/example.yaml (docs/cluster.md)")
        return
    try:
        site.enter()
    except UserError as error:
        yield bad("cluster", str(error))
        return
    yield good("cluster", f"{site.name}: executor {site.executor}, sizes {', '.join(site.resource_profiles)}")
    if site.executor == "slurm":
        yield from slurm_check.answers(site)
    roots = [site.roots.logs, site.roots.shards, site.roots.models]
    yield from machine.outputs([roots_folder() / root for root in roots])
    try:
        chain = open_chain(recipe, cluster, None)
    except UserError as error:
        yield bad("recipe", str(error), "RECIPE= names a file of recipes/")
        return
    yield from data.stages(chain)


def render(rows: Sequence[Finding], screen: Console) -> RenderableType:
    """One row for each finding, its remedy below it, and the verdict."""
    grid = Table(box=None, padding=(0, 1, 0, 0), show_header=False)
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for finding in rows:
        grid.add_row(screens.mark(screen, finding.level), finding.subject, screens.body(screen, finding))
    return Group(grid, Text(""), screens.verdict(rows))
