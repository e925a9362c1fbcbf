"""`make verify`: the digests of a run, and whether they are those of another one."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from rich.table import Table

from diagcot.console import text

SHOWN = 12  # characters of a digest
UNFINISHED = "not finished"


class StageDigest(Protocol):
    """What is needed of `launchers.digests.StageDigest`."""

    @property
    def stage(self) -> str:
        """Name of the stage."""

    @property
    def decided_by(self) -> str:
        """Digest of what decides the stage's result."""

    @property
    def made(self) -> str:
        """Digest of what it made; empty if it is not finished."""

    @property
    def damaged(self) -> tuple[str, ...]:
        """What is wrong with its files."""


def show(run: str, stages: Sequence[StageDigest]) -> int:
    """Print the digests. Returns 1 if a published file is gone or was changed, else 0."""
    screen, grid = text.console(), _grid("stage", "decided by", "made")
    for stage in stages:
        grid.add_row(stage.stage, stage.decided_by[:SHOWN], stage.made[:SHOWN] or UNFINISHED)
    screen.print(grid)
    return _damage(run, stages)


def show_both(run: str, stages: Sequence[StageDigest], other: str, others: Sequence[StageDigest]) -> int:
    """Print stage by stage what is equal. Returns 0 if all that both runs have made is equal and undamaged, else 1."""
    screen, there = text.console(), {stage.stage: stage for stage in others}
    grid, differences, shared = _grid("stage", "decided by", "made"), 0, 0
    for stage in stages:
        if stage.stage not in there:
            grid.add_row(stage.stage, f"not in {other}", "")
            continue
        shared += 1
        twin = there[stage.stage]
        known = bool(stage.made and twin.made)
        differences += not known or stage.made != twin.made
        made = ("equal" if stage.made == twin.made else "differs") if known else UNFINISHED
        grid.add_row(stage.stage, "equal" if stage.decided_by == twin.decided_by else "differs", made)
    screen.print(grid)
    verdict = "no stage in common" if not shared else f"{differences} of {shared} stages differ" if differences else ""
    screen.print(verdict or f"{run} and {other} have made the same, bit by bit", soft_wrap=True)
    return int(bool(verdict)) | _damage(run, stages) | _damage(other, others)


def _grid(*titles: str) -> Table:
    grid = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="dim")
    for title in titles:
        grid.add_column(title, no_wrap=True)
    return grid


def _damage(run: str, stages: Iterable[StageDigest]) -> int:
    lines = [f"{run}: stage {stage.stage}: {line}" for stage in stages for line in stage.damaged]
    for line in lines:
        text.console().print(line, style="red", soft_wrap=True)
    return int(bool(lines))
