"""Verbs that look for problems before anything is submitted."""

import argparse

from diagcot.cli.options import Verbs, add_chain_options, chain_of


def add_verbs(verbs: Verbs) -> None:
    """Add doctor and rehearse, which is also called preflight."""
    add_chain_options(verbs.add("doctor", "check this machine, the cluster, data, models and Java", _doctor))

    parser = verbs.add(
        "rehearse",
        "submit two-minute jobs that check, on the nodes, what each stage will need",
        _rehearse,
        ["preflight"],
    )
    add_chain_options(parser)
    parser.add_argument(
        "--patience", type=float, default=10, metavar="MINUTES", help="minutes to wait for a job to start (default: 10)"
    )


def _doctor(args: argparse.Namespace) -> int:
    from diagcot.preflight import doctor

    return doctor.main(args.recipe, args.cluster)


def _rehearse(args: argparse.Namespace) -> int:
    from diagcot.preflight.rehearsal import command

    return command.main(chain_of(args), args.patience)
