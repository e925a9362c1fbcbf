"""Finds the run that a verb is about, and sets the environment of its cluster."""

import argparse
import difflib
import os
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

from diagcot.jobs import UserError
from diagcot.jobs.names import check_name

CLOSE = 0.75  # similarity, 0 to 1, from which the name of a run counts as mistyped
NEWEST = 5  # runs that are listed where none of the name exists


def run_folder(args: argparse.Namespace) -> Path:
    """The run's folder. Its cluster's environment is set, so that Slurm's commands find the right cluster.

    The environment of another user's run is not set: its LD_PRELOAD, its PATH or the plugins of its SLURM_CONF would run
    that user's code in our process.
    """
    from diagcot.jobs.environment import variables
    from diagcot.jobs.owners import other_owner
    from diagcot.jobs.state import documents

    folder = find_run(args.logs, args.run)
    if owner := other_owner(folder):
        print(f"run {folder.name} belongs to {owner}: its environment (cluster.yaml) was not used", file=sys.stderr)
        return folder
    try:
        cluster = documents.read(folder / "cluster.yaml", documents.CLUSTER)
    except (UserError, FileNotFoundError) as error:
        why = error if isinstance(error, UserError) else f"{folder / 'cluster.yaml'} is gone"
        print(f"{why}: its environment was not used", file=sys.stderr)
        return folder
    if why := variables.fault(cluster.get("environment", {})):
        print(f"{folder / 'cluster.yaml'}: {why}; its environment was not used", file=sys.stderr)
        return folder
    for name, value in cluster.get("environment", {}).items():
        os.environ.setdefault(name, os.path.expandvars(value))
    if cluster.get("executor") == "slurm":
        variables.select_cluster(cluster.get("slurm", {}).get("cluster"))
    return folder


def own_run_folder(args: argparse.Namespace) -> Path:
    """As `run_folder`, for verbs that change the run or give it away: none is taken that was not named.

    Raises UserError if no run is named, if it belongs to another user, or if it is a copy.
    """
    from diagcot.jobs import owners
    from diagcot.jobs.owners import require_own

    if args.run is None:
        raise UserError(f"the run is missing: RUN=name says which one; the newest is {find_run(args.logs, None).name}")
    folder = find_run(args.logs, args.run)
    require_own(folder)
    owners.require_run(folder)
    return run_folder(args)


def find_run(logs: Path | None, name: str | None) -> Path:
    """The folder of the named run, or of the newest run. Raises UserError if there is none, or if several have the name.

    logs: the folder that holds the runs. None: first the runs of `logs` in the current folder and those that were submitted
    from here, then all others that the user has started (`diagcot.jobs.state.index`).
    """
    here, elsewhere = _known(logs)
    where = f"{logs}/" if logs is not None else "logs/"
    if not here + elsewhere:
        raise UserError(
            f"no run in {where} yet: start one with `make demo` or `make submit-all`; LOGS=folder shows those of a folder"
        )
    if name is None:
        return (here or elsewhere)[-1]
    check_name(name)
    found = [path for path in here if path.name == name] or [path for path in elsewhere if path.name == name]
    if len(found) > 1:
        folders = " or ".join(f"LOGS={shlex.quote(str(path.parent))}" for path in found)
        raise UserError(f"{len(found)} runs are named {name}: say which one with {folders}")
    if not found:
        names = list(dict.fromkeys(path.name for path in reversed(elsewhere + here)))
        match = difflib.get_close_matches(name, names, 1, CLOSE)
        hint = f"did you mean {match[0]!r}?" if match else f"the newest are {', '.join(names[:NEWEST])}"
        raise UserError(f"no run {name!r} in {where}; {hint}")
    return found[0]


def known_runs(logs: Path | None) -> list[Path]:
    """All runs that `find_run` may find, the newest last."""
    here, elsewhere = _known(logs)
    return elsewhere + here


def _known(logs: Path | None) -> tuple[list[Path], list[Path]]:
    """The runs of this folder, and those of other folders; each list begins with the oldest."""
    from diagcot.jobs.state import index

    inside = [path.parent for path in (logs or Path("logs")).glob("*/run.json")]
    if logs is not None:
        return _by_age(inside), []
    entries = index.entries()
    here = {path.resolve(): path for path in inside}
    here |= {entry.run_dir.resolve(): entry.run_dir for entry in entries if entry.submitted_from == Path.cwd()} | here
    others = {entry.run_dir.resolve(): entry.run_dir for entry in entries if entry.run_dir.resolve() not in here}
    return _by_age(here.values()), _by_age(others.values())


def _by_age(runs: Iterable[Path]) -> list[Path]:
    return sorted(runs, key=lambda path: (path / "run.json").stat().st_mtime)


def require_evaluation(folder: Path) -> None:
    """Raise UserError if the run's recipe has no stage that evaluates."""
    from diagcot.jobs.plans import stored
    from diagcot.jobs.state import documents

    if any((folder / name).exists() for name in ("metrics.json", "predictions.parquet")):
        return
    stored.require_submitted(folder)
    if not any(
        plan["kind"].startswith("diagcot.evaluation.") or plan["number"] == "eval" for plan in stored.whole(folder)[0]
    ):
        recipe = documents.find(folder / "run.json", documents.RUN).get("recipe", folder.name)
        raise UserError(f"recipe {recipe} has no evaluation stage, so run {folder.name} has no metrics")
