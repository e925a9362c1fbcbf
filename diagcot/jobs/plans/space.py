"""What a run occupies on disk, by stage, and how a run is removed."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagcot.jobs import owners
from diagcot.jobs.errors import UserError
from diagcot.jobs.names import check_name
from diagcot.jobs.plans import stored
from diagcot.jobs.state import ledger
from diagcot.jobs.state.files import remove, require_inside

_REMOVED = ".removed"  # the end of the hidden name of a run that is being removed


@dataclass(frozen=True)
class Occupied:
    """Bytes of one stage."""

    stage: str
    product: int
    """Its product; 0 for a product of another run, to which there is only a link, and for files in the run's own folder."""
    work: int
    """Checkpoints and other files that are removed when the stage is done."""


def size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder. Links are not followed; what cannot be read counts nothing."""
    if path.is_symlink():
        return 0
    if path.is_file():
        return path.stat().st_size
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(f"{folder}/{name}").st_size
    return total


def stages(run_dir: Path) -> Iterator[Occupied]:
    """The stages of a run in order, each with what it occupies."""
    for plan in stored.plans(run_dir):
        output, work = Path(plan["output"]), Path(plan["workspace"])
        yield Occupied(plan["stage"], 0 if _in_run_folder(output, run_dir) else size(output), size(work))


def leftovers(run_dir: Path) -> Iterator[Path]:
    """What no stage of the run needs any more, though the run stays: folders of work of finished stages, with their
    checkpoints and caches, and those of servers, once all stages are finished.

    Products are never among it. Raises UserError if a path of a plan does not belong to the run.
    """
    plans = list(stored.plans(run_dir))
    list(_paths(run_dir))  # that they belong to the run
    open_stages = [plan for plan in plans if len(ledger.done_keys(run_dir / plan["stage"])) < plan["units"]]
    works = {Path(plan["workspace"]).parent for plan in plans}
    for plan in plans:
        if plan not in open_stages:
            yield from (
                path for path in (Path(plan["workspace"]), run_dir / plan["stage"] / "partial") if path.is_dir()
            )
    if not open_stages:
        yield from (work / "servers" for work in sorted(works) if (work / "servers").is_dir())


def remove_run(run_dir: Path) -> Iterator[Path]:
    """Remove a run: products, work folders and the run's own folder; yields what was removed. Links are removed, and not
    what they lead to. Files that no stage of the run has made stay. The caller holds the right to write the run.

    Raises UserError, before anything is removed, if a path of a plan does not belong to the run.
    """
    paths = list(_paths(run_dir))
    for path in paths:
        if path.is_symlink() or path.is_dir():
            remove(path, path.parent, strict=True)  # checked by `_paths`
            yield path
    for folder in dict.fromkeys(path.parent for path in paths):
        with contextlib.suppress(OSError):  # it holds something else
            folder.rmdir()
    # Under another name nobody submits into it while it is being removed, and nobody takes what a kill leaves for a run.
    gone = run_dir.with_name(f".{run_dir.name}.{os.getpid()}{_REMOVED}")
    run_dir.rename(gone)
    for path in run_dir.parent.glob(f".*{_REMOVED}"):
        remove(path, run_dir.parent, strict=path == gone)
    yield run_dir


def _paths(run_dir: Path) -> Iterator[Path]:
    """Folders and links outside the run's own folder that its stages have made, each checked."""
    check_name(run_dir.name)
    roots: set[Path] = set()
    for plan in stored.plans(run_dir):
        owners.require_place(run_dir / plan["stage"])
        output, work = Path(plan["output"]), Path(plan["workspace"])
        for path, names in ((output, (run_dir.name, plan["stage"])), (work, (run_dir.name, ".work", plan["stage"]))):
            if _in_run_folder(path, run_dir):
                continue
            if path.parts[-len(names) :] != names:
                raise UserError(
                    f"{_plan_file(run_dir, plan)}: {path} does not belong to run {run_dir.name}: nothing was removed"
                )
            require_inside(path.parent.resolve() / path.name, path.parents[len(names) - 1])
            roots.add(path.parents[len(names) - 2])
            yield path
    for root in sorted(roots):  # links to products of other runs, which have no plan here
        yield from (path for path in sorted(root.glob("*")) if path.is_symlink())
        yield root / ".work"


def _in_run_folder(path: Path, run_dir: Path) -> bool:
    return path.absolute().is_relative_to(run_dir.absolute())


def _plan_file(run_dir: Path, plan: dict[str, Any]) -> Path:
    return run_dir / str(plan["stage"]) / "plan.json"
