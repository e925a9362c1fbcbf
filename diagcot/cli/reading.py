"""Verbs that show a run: its stages, logs, failures, metrics and traces. They change nothing."""

import argparse
from pathlib import Path

from diagcot.cli.options import Verbs, add_run_options
from diagcot.cli.runs import find_run, require_evaluation, run_folder
from diagcot.jobs import UserError
from diagcot.jobs.state import reading


def add_verbs(verbs: Verbs) -> None:
    """Add status, watch, logs, failures, table, compare, verify and traces."""
    add_run_options(verbs.add("status", "show the state of every stage of a run", _status))
    add_run_options(verbs.add("watch", "show the state of every stage, updated each second", _watch))

    parser = verbs.add("logs", "show the end of the newest log of a stage or unit", _logs)
    add_run_options(parser)
    parser.add_argument("--stage", default=None, help="name of the stage (default: the stage of the newest log)")
    parser.add_argument("--unit", default=None, help="key of the unit (default: the newest log)")

    add_run_options(
        verbs.add("failures", "show each distinct failure once, and the command that retries it", _failures)
    )
    add_run_options(verbs.add("table", "show the metrics of a run", _table))

    parser = verbs.add("compare", "compare two runs on the samples that both answered", _compare)
    parser.add_argument("a", metavar="A", help="name of a run")
    parser.add_argument("b", metavar="B", help="name of another run")
    parser.add_argument(
        "--logs",
        default=None,
        type=Path,
        help="folder that holds the runs (default: logs, and wherever you have started runs)",
    )
    parser.add_argument(
        "--draws", default=1000, type=_draws, help="number of bootstrap draws, 100 to 100000 (default: 1000)"
    )

    parser = verbs.add("verify", "show digests of what decides each stage's result and of what it made", _verify)
    add_run_options(parser)
    parser.add_argument("--against", default=None, metavar="RUN", help="another run whose digests are compared")

    add_run_options(
        verbs.add("traces", "show how many chains of thought were kept, and why others were dropped", _traces)
    )


def _draws(text: str) -> int:
    """The type of a number of bootstrap draws; the range is that of the settings of evaluations."""
    if not text.isascii() or not text.isdigit() or not 100 <= int(text[:9]) <= 100_000:
        raise argparse.ArgumentTypeError(f"must be a whole number from 100 to 100000, is {text[:20]!r}")
    return int(text)


def _status(args: argparse.Namespace) -> int:
    from diagcot.console.screens import status

    return status.show(run_folder(args))


def _watch(args: argparse.Namespace) -> int:
    from diagcot.console.screens import watch

    return watch.show(run_folder(args))


def _logs(args: argparse.Namespace) -> int:
    from diagcot.console.screens import logs

    return logs.show(run_folder(args), args.stage, args.unit)


def _failures(args: argparse.Namespace) -> int:
    from diagcot.console.screens import failures

    return failures.show(run_folder(args))


def _table(args: argparse.Namespace) -> int:
    from diagcot.console.screens import metrics_table

    path = run_folder(args) / "metrics.json"
    if (study := path.with_name("study.md")).exists():
        print(reading.page(study), end="")
        return 0
    require_evaluation(path.parent)
    if not path.exists():
        raise UserError(f"{path} does not exist yet: the evaluation of this run has not ended (see `make status`)")
    return metrics_table.main([str(path)])


def _compare(args: argparse.Namespace) -> int:
    from diagcot.console import text
    from diagcot.console.screens import compare as screen
    from diagcot.evaluation.compare import compare

    first, second = (find_run(args.logs, name) for name in (args.a, args.b))
    for folder in (first, second):
        require_evaluation(folder)
    console = text.console()
    with console.status("scoring the samples that both runs answered"):
        metrics, costs, notes = compare(first, second, args.draws)
    console.print(screen.render(metrics, costs, notes, console))
    return 0


def _verify(args: argparse.Namespace) -> int:
    from diagcot.console.screens import verify as screen
    from diagcot.jobs.plans import stored
    from launchers import digests

    folder = find_run(args.logs, args.run)
    own = digests.of_run(folder)
    other = folder if args.against is None else find_run(args.logs, args.against)
    if args.against is None:
        code = screen.show(folder.name, own)
    else:
        code = screen.show_both(folder.name, own, other.name, digests.of_run(other))
    for run_dir in (folder, other):
        stored.require_submitted(run_dir)
    return code


def _traces(args: argparse.Namespace) -> int:
    from diagcot.console.screens import traces

    return traces.show(run_folder(args))
