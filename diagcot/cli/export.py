"""The verb that writes samples in the formats of other suites."""

import argparse
from pathlib import Path

from diagcot.cli.options import Verbs


def add_verbs(verbs: Verbs) -> None:
    """Add export."""
    parser = verbs.add("export", "write samples with their images in the format of another suite", _export)
    parser.add_argument(
        "format", help="llamafactory, llamafactory-alpaca, easyr1, verl, openai or datasets (docs/exchange.md)"
    )
    parser.add_argument(
        "paths", nargs="+", type=Path, help="files of samples, or folders of stages, such as shards/RUN/filter"
    )
    parser.add_argument("--out", required=True, type=Path, help="new folder to write; only you can read it")
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
    from diagcot.exchange.export import export

    samples, images, left_out = export(args.paths, args.format, args.out, args.task, args.split)
    print(f"{args.out}: {samples:,} samples, {images:,} images; only you can read this folder")
    for reason, count in left_out.most_common():
        print(f"left out {count:,}: {reason}")
    return 0
