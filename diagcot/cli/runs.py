"""Finds the run that a verb is about, and sets the environment of its cluster."""

import argparse
import difflib
import json
import os
import sys
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
    from diagcot.jobs.owners import other_owner

    folder = find_run(Path(args.logs), args.run)
    if owner := other_owner(folder):
        print(f"run {folder.name} belongs to {owner}: its environment (cluster.yaml) was not used", file=sys.stderr)
        return folder
    environment = json.loads((folder / "cluster.yaml").read_text()).get("environment", {})
    for name, value in environment.items():
        os.environ.setdefault(name, os.path.expandvars(value))
    return folder


def own_run_folder(args: argparse.Namespace) -> Path:
    """As `run_folder`, for verbs that change the run. Raises UserError if it belongs to another user."""
    from diagcot.jobs.owners import require_own

    require_own(find_run(Path(args.logs), args.run))
    return run_folder(args)


def find_run(logs: Path, name: str | None) -> Path:
    """The folder of the named run, or of the newest run. Raises UserError if there is none."""
    runs = sorted(logs.glob("*/run.json"), key=lambda path: path.stat().st_mtime)
    if not runs:
        raise UserError(f"no run in {logs}/ yet: start one with `make demo` or `make submit-all`")
    if name is None:
        return runs[-1].parent
    check_name(name)
    if logs / name / "run.json" not in runs:
        names = [path.parent.name for path in reversed(runs)]
        match = difflib.get_close_matches(name, names, 1, CLOSE)
        hint = f"did you mean {match[0]!r}?" if match else f"the newest are {', '.join(names[:NEWEST])}"
        raise UserError(f"no run {name!r} in {logs}/; {hint}")
    return logs / name


def require_evaluation(folder: Path) -> None:
    """Raise UserError if the run's recipe has no stage that evaluates."""
    from diagcot.jobs.plans import stored

    if any((folder / name).exists() for name in ("metrics.json", "predictions.parquet")):
        return
    if not any(
        plan["kind"].startswith("diagcot.evaluation.") or plan["number"] == "eval" for plan in stored.plans(folder)
    ):
        recipe = json.loads((folder / "run.json").read_text()).get("recipe", folder.name)
        raise UserError(f"recipe {recipe} has no evaluation stage, so run {folder.name} has no metrics")
