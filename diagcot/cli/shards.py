"""The verb that shows and verifies shards."""

import argparse
from pathlib import Path

from diagcot.cli.options import Verbs
from diagcot.jobs import UserError


def add_verbs(verbs: Verbs) -> None:
    """Add shards."""
    parser = verbs.add("shards", "show and verify shards, or set damaged ones aside so that they are rebuilt", _shards)
    parser.add_argument(
        "action",
        choices=["info", "show", "verify", "rebuild"],
        help="info: show what the shards hold; show: write a contact sheet of images; verify: check every byte; rebuild:"
        " set damaged shards aside",
    )
    parser.add_argument("paths", nargs="+", type=Path, help="shards, or folders of shards")
    parser.add_argument("--logs", default="logs", type=Path, help="rebuild: folder that holds the runs (default: logs)")
    parser.add_argument(
        "--out", default=None, type=Path, help="show: path of the PNG (default: contact.png next to the shards)"
    )
    parser.add_argument("--count", default=24, type=int, help="show: number of images (default: 24)")
    parser.add_argument(
        "--split", default=None, choices=["train", "validate", "test"], help="show: images of this split only"
    )
    parser.add_argument("--seed", default=0, type=int, help="show: seed that selects the images (default: 0)")


def _shards(args: argparse.Namespace) -> int:
    from diagcot.shards import shard_paths, verify

    if args.action == "verify":
        return verify.check(args.paths)
    if args.action == "rebuild":
        return verify.rebuild(args.paths, args.logs)
    paths = [shard for path in args.paths for shard in (shard_paths(path) if path.is_dir() else [path])]
    if args.action == "info":
        from diagcot.console.screens import shards

        return shards.show(paths)
    return _contact_sheet(paths, args)


def _contact_sheet(paths: list[Path], args: argparse.Namespace) -> int:
    from diagcot.shards import contact

    first: Path = args.paths[0]
    out = args.out or (first if first.is_dir() else first.parent) / "contact.png"
    sheet, count = contact.draw(paths, args.count, args.split, args.seed)
    try:
        contact.save(sheet, out)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}): choose another path with --out") from error
    print(f"{out}: {count} images with their boxes and labels; only you can read this file")
    return 0
