"""Finds the run that a verb is about, and sets the environment of its cluster."""

import argparse
import json
import os
import sys
from pathlib import Path

from diagcot.jobs import UserError


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
    if logs / name / "run.json" not in runs:
        from diagcot.jobs.settings import near

        raise UserError(f"no run {name!r} in {logs}/{near(name, sorted(path.parent.name for path in runs))}")
    return logs / name
