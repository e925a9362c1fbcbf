"""Verbs about the files of runs: what they occupy, how a run is removed, packed into an archive, and unpacked."""

import argparse
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from diagcot.cli.options import Verbs, add_run_options
from diagcot.cli.runs import find_run, known_runs, own_run_folder
from diagcot.console.commands import typed
from diagcot.jobs import UserError


def add_verbs(verbs: Verbs) -> None:
    """Add space, remove, pack and unpack."""
    add_run_options(
        verbs.add("space", "show what runs occupy on disk, or one run's stages, and which runs use them", _space)
    )
    parser = verbs.add(
        "remove", "remove a run: its products, work folders and logs; never what another run uses", _remove
    )
    add_run_options(parser, changes=True)
    parser.add_argument("--yes", action="store_true", help="do not ask")

    parser = verbs.add(
        "pack", "write a run into one archive: recipe, code, prompts, lock, digests, tables; never images", _pack
    )
    add_run_options(parser, changes=True)
    parser.add_argument("--out", type=Path, default=None, help="the archive (default: <run>.tar.gz)")
    parser.add_argument("--models", action="store_true", help="with all weights")
    parser.add_argument(
        "--report-text",
        action="store_true",
        help="with predictions, traces and samples: they hold reports of patients. Only for people who may read the data",
    )

    parser = verbs.add("unpack", "unpack an archive of `diagcot pack`; nothing of it is run", _unpack)
    parser.add_argument("archive", type=Path, help="the archive")
    parser.add_argument(
        "--into", type=Path, default=Path(), help="folder for its logs, shards and models (default: this)"
    )
    parser.add_argument("--most", type=float, default=20, metavar="GB", help="most GB that it may hold (default: 20)")


def users(run_dir: Path) -> Iterator[tuple[str, str]]:
    """(run, stage of `run_dir`) for every product that another of the user's runs reads, or whose weights it has links to."""
    from diagcot.jobs.plans import reused, stored

    products = {Path(plan["output"]).resolve(): plan["stage"] for plan in stored.plans(run_dir)}
    products.pop(run_dir.resolve(), None)  # of reports, which no stage reads
    here, newer = known_runs(run_dir.parent), known_runs(None)
    for other in dict.fromkeys([*here, *newer]):
        if other.resolve() != run_dir.resolve():
            try:
                taken, plans = reused.read(other), list(stored.plans(other))
            except UserError as error:
                raise UserError(
                    f"the other run in {other} is damaged, and may use this one: {error}. Repair it, or remove its folder"
                    " by hand if nobody needs it"
                ) from None
            yield from (
                (other.name, row["stage"])
                for row in taken.values()
                if Path(row["folder"]).resolve() == run_dir.resolve()
            )
            for plan in plans:  # a model that `pretrained` took over consists of links
                for link in (path for path in Path(plan["output"]).glob("model/*") if path.is_symlink()):
                    yield from (
                        (other.name, name) for product, name in products.items() if product in link.resolve().parents
                    )


def _space(args: argparse.Namespace) -> int:
    from diagcot.console import text
    from diagcot.jobs.plans import space

    screen = text.console()
    if args.run is None:
        runs = known_runs(args.logs)
        if not runs:
            find_run(args.logs, None)  # says that there is none
        wrong = dict[str, None]()
        for folder in runs:
            occupied, used = list[space.Occupied](), set[str]()
            try:
                occupied += space.stages(folder)
                used.update(run for run, _ in users(folder))
            except UserError as error:  # of this run, or of one that may use it
                wrong[str(error)] = None
            total = sum(row.product + row.work for row in occupied) + space.size(folder)
            readers = f"  used by {', '.join(sorted(used))}" if used else ""
            screen.print(f"{text.size(total):>9}  {folder.name}{readers}", soft_wrap=True)
        for why in wrong:
            print(f"not counted: {why}", file=sys.stderr)
        return 1 if wrong else 0
    folder = find_run(args.logs, args.run)
    used_by: dict[str, list[str]] = {}
    for run, stage in users(folder):
        used_by.setdefault(stage, []).append(run)
    width = max((len(row.stage) for row in space.stages(folder)), default=0)
    for row in space.stages(folder):
        work = f"  work folder {text.size(row.work)}" if row.work else ""
        reading = f"  used by {', '.join(used_by[row.stage])}" if row.stage in used_by else ""
        screen.print(f"{text.size(row.product):>9}  {row.stage:<{width}}{work}{reading}".rstrip(), soft_wrap=True)
    screen.print(f"{text.size(space.size(folder)):>9}  logs, code and reports", soft_wrap=True)
    return 0


def _remove(args: argparse.Namespace) -> int:
    from diagcot.cli.cleaning import is_open
    from diagcot.jobs.lease import AT_ONCE_S, write_lease
    from diagcot.jobs.plans import space

    folder = own_run_folder(args)
    if used := sorted(set(users(folder))):
        listed = ", ".join(f"{stage} by {run}" for run, stage in used)
        raise UserError(
            f"run {folder.name} is used by other runs ({listed}), so nothing was removed: remove those first"
        )
    if is_open(folder):
        raise UserError(
            typed(
                f"run {folder.name} is being worked on, or jobs of it are queued: make cancel RUN={folder.name} first"
            )
        )
    if not args.yes:
        if not sys.stdin.isatty():
            raise UserError("nothing was removed: there is no terminal to ask at; --yes removes without asking")
        if input(f"remove run {folder.name} with all its models, data and logs? [y/N] ").strip().lower() not in (
            "y",
            "yes",
        ):
            print("nothing was removed")
            return 1
    with write_lease(folder, AT_ONCE_S):
        if is_open(folder, written_by_us=True):
            raise UserError(f"run {folder.name} has begun to work since you asked: nothing was removed")
        for path in space.remove_run(folder):
            print(f"removed {path}")
    return 0


def _pack(args: argparse.Namespace) -> int:
    from diagcot.jobs.plans import reused
    from launchers import pack

    folder = own_run_folder(args)
    archive = args.out or Path(f"{folder.name}.tar.gz")
    index = pack.write(folder, archive, models=args.models, texts=args.report_text)
    print(f"{archive}: {len(index['files'])} files of run {folder.name}, {archive.stat().st_size / 1e6:.1f} MB")
    if names := [f"{row['run']}/{row['stage']}" for row in reused.read(folder).values()]:
        print(f"not in it: what other runs have made ({', '.join(names)})")
    if args.report_text:
        print("it holds reports of patients: give it only to people who may read the data")
    return 0


def _unpack(args: argparse.Namespace) -> int:
    from diagcot.jobs.settings import Document
    from launchers import own_files, unpack

    folder = unpack.unpack(args.archive, args.into, int(args.most * 1e9))
    for path in dict.fromkeys(own_files.named(Document(folder / "recipe.yaml").value)):
        print(f"its recipe names {path}, which planning or running it would run: read it first")
    recipe = shlex.quote(str(folder / "recipe.yaml"))
    print(f"{folder}: to plan it here: diagcot plan --recipe {recipe} --run {folder.name}-again")
    return 0
