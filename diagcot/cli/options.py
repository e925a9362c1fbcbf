"""What the verbs of the command share: how one is added, and the options that choose a recipe, a cluster or a run."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from launchers.chain import Chain

    SubParsers = argparse._SubParsersAction[argparse.ArgumentParser]

Call = Callable[[argparse.Namespace], int]


class Verbs:
    """Adds verbs to the command; each one gets a parser for its own options."""

    def __init__(self, subparsers: "SubParsers") -> None:
        self._subparsers = subparsers

    def add(self, name: str, summary: str, call: Call, aliases: Sequence[str] = ()) -> argparse.ArgumentParser:
        """A verb that runs `call` with the parsed arguments; `call` returns the exit code. aliases: its other names."""
        parser = self._subparsers.add_parser(
            name, aliases=aliases, help=summary, description=f"{summary[0].upper()}{summary[1:]}."
        )
        parser.set_defaults(call=call)
        return parser


def add_chain_options(parser: argparse.ArgumentParser) -> None:
    """Options of a verb that reads a recipe and a cluster file."""
    parser.add_argument("--recipe", default="tiny", help="name of a recipe in recipes/, or path of a YAML file")
    parser.add_argument(
        "--cluster", default="laptop", help="name of a cluster in slurm/clusters/, or path of a YAML file"
    )
    parser.add_argument(
        "--run", default=None, help="name of the run (default: the recipe's name, and the seed if given)"
    )
    parser.add_argument("--seed", type=int, default=None, help="seed of every random choice (default: the recipe's)")


def chain_of(args: argparse.Namespace, name: str = "") -> "Chain":
    """The chain that the options choose. name: of its run, in place of the recipe's. Raises UserError as `open_chain`."""
    from launchers.chain import open_chain, seeded_name

    run = args.run or (seeded_name(name, args.seed) if name else None)
    return open_chain(args.recipe, args.cluster, run, seed=args.seed)


def add_stage_number_option(parser: argparse.ArgumentParser) -> None:
    """The option that selects stages by their number in the recipe."""
    parser.add_argument("--stage", default="all", metavar="NUMBER", help="0, 1, 2, 3, eval or all (default: all)")


def add_run_options(parser: argparse.ArgumentParser, *, changes: bool = False) -> None:
    """Options of a verb that reads the folder of a run. changes: it changes the run, which has to be named then."""
    default = "" if changes else " (default: the newest)"
    parser.add_argument("--run", default=None, help=f"name of the run{default}")
    parser.add_argument(
        "--logs",
        default=None,
        type=Path,
        help="folder that holds the runs (default: logs, and wherever you have started runs)",
    )
