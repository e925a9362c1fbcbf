"""The verb that writes samples in the formats of other suites."""

import argparse
from pathlib import Path

from diagcot.cli.options import Verbs
from diagcot.jobs import UserError


def add_verbs(verbs: Verbs) -> None:
    """Add export."""
    parser = verbs.add("export", "write samples with their images in the format of another suite", _export)
    parser.add_argument(
        "format",
        help="llamafactory, llamafactory-alpaca, easyr1, verl, openai or datasets; or rexrank, for the reports of a run"
        " (docs/exchange.md)",
    )
    parser.add_argument(
        "paths",
        nargs="+",
        type=Path,
        help="files of samples, or folders of stages, such as shards/RUN/filter; rexrank: the run, logs/RUN",
    )
    parser.add_argument("--out", required=True, type=Path, help="new folder, or file of rexrank; only you can read it")
    parser.add_argument("--model", default="", help="rexrank: the model whose reports are written")
    parser.add_argument(
        "--task",
        action="append",
        default=[],
        help="make samples of this task from the shards of the folders: report, classification or grounding; may be repeated",
    )
    parser.add_argument(
        "--split", default="train", choices=["train", "validate", "test"], help="samples of this split (default: train)"
    )


def _export(args: argparse.Namespace) -> int:
    if args.format == "rexrank":
        return _rexrank(args)
    from diagcot.exchange.export import export

    samples, images, left_out = export(args.paths, args.format, args.out, args.task, args.split)
    print(f"{args.out}: {samples:,} samples, {images:,} images; only you can read this folder")
    for reason, count in left_out.most_common():
        print(f"left out {count:,}: {reason}")
    return 0


def _rexrank(args: argparse.Namespace) -> int:
    from diagcot.evaluation import rexrank

    if len(args.paths) != 1 or not args.model:
        raise UserError("name one run and a model: diagcot export rexrank logs/RUN --model NAME --out FILE")
    studies = rexrank.write(args.paths[0], args.model, args.out)
    print(f"{args.out}: reports of {args.model} on {studies:,} studies; only you can read this file")
    return 0
