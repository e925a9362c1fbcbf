"""The parser of the `diagcot` command."""

import argparse
from collections.abc import Sequence

from diagcot.cli import checks, cleaning, export, prompts, reading, rewards, shards, space, submission
from diagcot.cli.options import Verbs
from diagcot.cli.reference import verb as reference
from diagcot.jobs.names import near


def command_parser() -> argparse.ArgumentParser:
    """The parser with all verbs; `args.call` is the function that runs the chosen one."""
    parser = argparse.ArgumentParser(
        prog="diagcot",
        description="Train chest X-ray models to reason step by step, as a chain of Slurm jobs.",
        epilog="`diagcot VERB --help` explains one verb; `make help` lists the make targets.",
    )
    parser.set_defaults(print_help=parser.print_help)
    verbs = Verbs(parser.add_subparsers(dest="verb", metavar="VERB", required=True))
    for subject in (submission, reading, checks, cleaning, space, shards, export, rewards, prompts, reference):
        subject.add_verbs(verbs)
    return parser


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The parsed arguments. Exits with status 2 and a message if they are wrong, as argparse does."""
    parser = command_parser()
    verbs = next(action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    if arguments and not arguments[0].startswith("-") and arguments[0] not in verbs:
        parser.error(f"unknown verb {arguments[0]!r}{near(arguments[0], verbs)}")
    return parser.parse_args(arguments)
