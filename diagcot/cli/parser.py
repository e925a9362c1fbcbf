"""The parser of the `diagcot` command."""

import argparse

from diagcot.cli import checks, reading, shards, submission
from diagcot.cli.options import Verbs
from diagcot.cli.reference import verb as reference


def command_parser() -> argparse.ArgumentParser:
    """The parser with all verbs; `args.call` is the function that runs the chosen one."""
    parser = argparse.ArgumentParser(
        prog="diagcot",
        description="Train chest X-ray models to reason step by step, as a chain of Slurm jobs.",
        epilog="`diagcot VERB --help` explains one verb; `make help` lists the make targets.",
    )
    verbs = Verbs(parser.add_subparsers(dest="verb", metavar="VERB", required=True))
    for subject in (submission, reading, checks, shards, reference):
        subject.add_verbs(verbs)
    return parser
