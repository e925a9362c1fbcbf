"""Verbs that look for problems before anything is submitted."""

import argparse

from diagcot.cli.options import Verbs, add_chain_options, chain_of


def add_verbs(verbs: Verbs) -> None:
    """Add doctor, rehearse, which is also called preflight, and cluster."""
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

    parser = verbs.add("cluster", "write a cluster file from what Slurm says of this site", _cluster)
    parser.add_argument("action", choices=["init"], help="init: write a new file into slurm/clusters/")
    parser.add_argument("--name", default=None, help="name of the cluster (default: as Slurm names it)")


def _cluster(args: argparse.Namespace) -> int:
    from diagcot.preflight.site import command
    from launchers.chain import ROOT

    command.init(args.name, ROOT / "slurm" / "clusters")
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from diagcot.preflight import doctor

    return doctor.main(args.recipe, args.cluster)


def _rehearse(args: argparse.Namespace) -> int:
    from diagcot.preflight.rehearsal import command

    return command.main(chain_of(args), args.patience)
