"""The verb that removes what no run needs any more."""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from diagcot.cli.options import Verbs

ROOT = Path(__file__).resolve().parents[2]


def add_verbs(verbs: Verbs) -> None:
    """Add clean."""
    parser = verbs.add(
        "clean",
        "remove what no run of yours needs: environments, temporary files of dead processes, and, after a question, folders"
        " of work of finished stages",
        _clean,
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")


def _clean(args: argparse.Namespace) -> int:
    from diagcot.jobs.state import index
    from diagcot.jobs.state.files import remove

    _clean_runs(yes=args.yes)
    _clean_places()
    if ROOT.stat().st_uid != os.geteuid():
        print(f"{ROOT} is not yours: its owner removes its environments")
        return 0
    runs = [entry.run_dir for entry in index.entries()]
    for path in unused(ROOT, runs):
        remove(path, ROOT, strict=True)
        print(f"removed {path}")
    kept = ", ".join(sorted(path.name for path in ROOT.glob(".venv-*")))
    print(f"environments that are used: {kept or 'none'}")
    return 0


def _clean_runs(*, yes: bool) -> None:
    """Remove, after a question, what the stages of the user's runs do not need; runs that are at work are left alone."""
    from diagcot.cli.runs import known_runs
    from diagcot.console import text
    from diagcot.jobs import UserError
    from diagcot.jobs.owners import other_owner
    from diagcot.jobs.plans import space
    from diagcot.jobs.state.files import remove

    found: list[Path] = []
    for run_dir in known_runs(None):
        if other_owner(run_dir) or is_open(run_dir):
            continue
        try:
            found += space.leftovers(run_dir)
        except (UserError, OSError) as error:
            print(f"run {run_dir.name} was left alone: {error}")
    if not found:
        return
    for path in found:
        print(f"{text.size(space.size(path)):>9}  {path}")
    if not (yes or (sys.stdin.isatty() and input("remove these? [y/N] ").strip().lower() in ("y", "yes"))):
        print(
            "these were not removed" + ("" if sys.stdin.isatty() else ": there is no terminal to ask at; --yes does it")
        )
        return
    for path in found:
        remove(path, path.parent, strict=True)  # checked by `space.leftovers`
        print(f"removed {path}")


def _clean_places() -> None:
    """Remove what killed processes of this user have left on this machine's disks, /tmp and `scratch` of the user's runs, and
    beside archives that were written or opened here or where the user's runs are.
    """
    from diagcot.cli.runs import known_runs
    from diagcot.jobs import UserError
    from diagcot.jobs.cluster import Cluster
    from diagcot.jobs.execution import place, staging, unpacked
    from diagcot.jobs.owners import other_owner

    scratches = set()
    for run_dir in known_runs(None):
        with contextlib.suppress(UserError, OSError, ValueError):
            if not other_owner(run_dir):
                scratches.add(Cluster.read(run_dir).scratch)
    beside = dict.fromkeys([Path.cwd(), *(run_dir.absolute().parents[1] for run_dir in known_runs(None))])
    left = [path for base in place.bases(scratches) for path in place.sweep(base)]
    left += [path for base in beside for path in [*staging.sweep(base), *unpacked.sweep(base)]]
    for path in left:
        print(f"removed {path}")


def unused(root: Path, runs: Iterable[Path]) -> list[Path]:
    """Environments in `root` that are neither this process's nor the link's, and that no open run of `runs` names."""
    from diagcot.jobs.environment import python

    needed = {Path(sys.prefix).resolve(), (root / ".venv").resolve()}
    needed |= {Path(name) for run_dir in runs if is_open(run_dir) for name in python.named(run_dir)}
    return [path for path in sorted(root.glob(".venv-*")) if path.is_dir() and path not in needed]


def is_open(run_dir: Path, *, written_by_us: bool = False) -> bool:
    """Whether the run is being submitted, or jobs of it are queued or running, or may be submitted by hand.

    written_by_us: the caller holds the right to write the run. True where Slurm does not say.
    """
    from diagcot.jobs import UserError, chain
    from diagcot.jobs.cluster import Cluster
    from diagcot.jobs.lease import is_written
    from diagcot.jobs.plans.plan import read
    from diagcot.jobs.plans.stored import stages, unfinished
    from diagcot.jobs.slurm import scripts
    from diagcot.jobs.state import attempts, runner

    try:
        at_work = runner.process_id(run_dir) is not None or (not written_by_us and is_written(run_dir))
        if at_work or unfinished(run_dir):  # no job is submitted before all of the run is written
            return at_work
        cluster = Cluster.read(run_dir)
        plans = [read(run_dir / stage) for stage in stages(run_dir)]
        if cluster.executor != "slurm" or not any(plan.missing() for plan in plans):
            return False
        if (run_dir / scripts.FOLDER).exists() or any(attempts.intended(plan.path) for plan in plans):
            return True
        cluster.enter()
        own = {name: os.path.expandvars(value) for name, value in cluster.environment.items()}
        if any(os.environ[name] != value for name, value in own.items()):
            return True  # its jobs are on a cluster other than the one that this process asks
        return any(chain.alive(plan.path) for plan in plans)
    except (UserError, OSError, ValueError):
        return True
