"""The `diagcot` command: plans, submits and watches. It never imports torch; each verb imports what it needs."""

import argparse
import dataclasses
import getpass
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diagcot.jobs.errors import UserError

if TYPE_CHECKING:
    from diagcot.jobs.chain import Submitted
    from launchers.chain import Chain

Verb = Callable[[argparse.Namespace], int]


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="diagcot", description="Train chest X-ray models to reason, as a chain of jobs.")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)

    def add(name: str, text: str, run: Verb) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=text, description=text)
        made.set_defaults(call=run)
        return made

    def chain_options(made: argparse.ArgumentParser) -> None:
        made.add_argument("--recipe", default="tiny", help="a recipe of recipes/, or a YAML file")
        made.add_argument("--cluster", default="laptop", help="a cluster of slurm/clusters/, or a YAML file")
        made.add_argument("--run", default=None, help="the run's name; default: the recipe's")

    def run_option(made: argparse.ArgumentParser) -> None:
        made.add_argument("--run", default=None, help="the run's name; default: the newest")
        made.add_argument("--logs", default="logs", help="the folder of runs")

    made = add("submit", "submit stages of a run", _submit)
    chain_options(made)
    made.add_argument("--stage", default="all", help="0, 1, 2, 3, eval or all")
    made.add_argument("--dry", action="store_true", help="show what would be submitted, submit nothing")
    made = add("plan", "what would be submitted, its cost, and when it would start; submits nothing", _plan)
    chain_options(made)
    made.add_argument("--stage", default="all", help="0, 1, 2, 3, eval or all")
    made = add("demo", "run the whole chain on this machine and show its table", _demo)
    chain_options(made)
    run_option(add("status", "where every stage of a run stands", _status))
    run_option(add("watch", "a live screen over all stages", _watch))
    made = add("logs", "the newest log of a stage or unit", _logs)
    run_option(made)
    made.add_argument("--stage", default=None)
    made.add_argument("--unit", default=None)
    run_option(add("failures", "the first traceback of each distinct failure", _failures))
    made = add("retry", "submit what is not done of a stage again, and what follows it", _retry)
    run_option(made)
    made.add_argument("--stage", default=None, help="the stage's name")
    made.add_argument("--mem", type=float, default=None, help="memory a node in GB, from now on")
    made.add_argument("--time", type=int, default=None, help="time limit in minutes, from now on")
    made.add_argument("--code", choices=["new"], default=None, help="new: run the checkout's code as it is now")
    run_option(add("cancel", "stop a run; what is done is kept", _cancel))
    run_option(add("table", "the metrics of a run", _table))
    made = add("compare", "two runs side by side, on the samples that both answered", _compare)
    made.add_argument("a", help="a run")
    made.add_argument("b", help="another run")
    made.add_argument("--logs", default="logs", help="the folder of runs")
    made.add_argument("--draws", default=1000, type=int, help="draws of the bootstrap (default 1000)")
    run_option(add("traces", "chains of thought of a run: kept, dropped and why, and the page of samples", _traces))
    made = add("doctor", "check this machine, the cluster, data, models and Java", _doctor)
    chain_options(made)
    made = add(
        "rehearse", "submit the chain with bodies that only check what each stage will need, and tell", _rehearse
    )
    chain_options(made)
    made.add_argument("--patience", type=float, default=10, help="minutes to wait for a job to start (default 10)")
    made = add("worker", "run one task of a plan (used by slurm/*.sbatch)", _worker)
    chain_options(made)
    made.add_argument("--stage", required=True, help="the stage's name")
    made.add_argument("--task", type=int, default=None, help="default: SLURM_ARRAY_TASK_ID, or 0")
    made = add("shards", "show and verify shards; set damaged ones aside, to be built again", _shards)
    made.add_argument(
        "action",
        choices=["info", "show", "verify", "rebuild"],
        help="info: what they hold; show: draw a contact sheet of films; verify: check every byte; rebuild: set aside"
        " what is damaged",
    )
    made.add_argument("paths", nargs="+", type=Path, help="shards, or folders of shards")
    made.add_argument("--logs", default="logs", type=Path, help="rebuild: the folder of runs")
    made.add_argument("--out", default=None, type=Path, help="show: the PNG; default: contact.png beside the shards")
    made.add_argument("--count", default=24, type=int, help="show: how many films")
    made.add_argument("--split", default=None, choices=["train", "validate", "test"], help="show: of this split")
    made.add_argument("--seed", default=0, type=int, help="show: another seed draws other films")
    return top


def _run_dir(args: argparse.Namespace) -> Path:
    """The folder of the run that is meant; its cluster's variables are set, so that Slurm's commands find their cluster.

    Those of another user's run are not: LD_PRELOAD, PATH or the plugins of a SLURM_CONF would run their code as us.
    """
    from diagcot.jobs.owners import other_owner

    found = _find_run(Path(args.logs), args.run)
    if owner := other_owner(found):
        print(f"run {found.name} belongs to {owner}: its environment (cluster.yaml) was not used", file=sys.stderr)
        return found
    environment = json.loads((found / "cluster.yaml").read_text()).get("environment", {})
    for name, value in environment.items():
        os.environ.setdefault(name, os.path.expandvars(value))
    return found


def _own_run_dir(args: argparse.Namespace) -> Path:
    """As `_run_dir`, for verbs that change the run. Raises UserError if it belongs to another user."""
    from diagcot.jobs.owners import require_own

    require_own(_find_run(Path(args.logs), args.run))
    return _run_dir(args)


def _find_run(logs: Path, name: str | None) -> Path:
    runs = sorted(logs.glob("*/run.json"), key=lambda path: path.stat().st_mtime)
    if not runs:
        raise UserError(f"no run in {logs}/ yet: start one with `make demo` or `make submit-all`")
    if name is None:
        return runs[-1].parent
    if logs / name / "run.json" not in runs:
        from diagcot.jobs.settings import near

        raise UserError(f"no run {name!r} in {logs}/{near(name, sorted(path.parent.name for path in runs))}")
    return logs / name


def _submit(args: argparse.Namespace) -> int:
    from launchers.chain import open_chain

    chain = open_chain(args.recipe, args.cluster, args.run)
    selected = chain.selected(args.stage)
    if args.dry:
        return _dry(chain, selected, scripts=True)
    told = chain.submit(args.stage)
    for line in chain.pipeline.grew:
        print(f"run {chain.run} has grown: {line}")
    _tell(told, chain.run)
    return 0


def _tell(told: "Sequence[Submitted]", run: str) -> None:
    width = max(len(row.stage) for row in told)
    for row in told:
        jobs = f"  jobs {' '.join(row.jobs)}" if row.jobs else ""
        tasks = f"  {row.tasks} task{'s' * (row.tasks != 1)}" if row.tasks else ""
        later = f", {row.later} more when the submit limit has room" if row.later else ""
        print(f"{row.stage:<{width}}  {row.state}{tasks}{later}{jobs}")
    print(f"watch it with: make watch RUN={run}")


def _plan(args: argparse.Namespace) -> int:
    from launchers.chain import open_chain

    chain = open_chain(args.recipe, args.cluster, args.run)
    return _dry(chain, chain.selected(args.stage), scripts=False)


def _dry(chain: "Chain", selected: set[str], scripts: bool) -> int:
    from diagcot.console.screens import plan_screen
    from diagcot.jobs.forecast import forecast
    from diagcot.jobs.slurm import submit

    plans = [plan for plan in chain.plans if plan.stage in selected]
    wanted = plans if scripts and chain.cluster.executor == "slurm" else []
    texts = {plan.stage: submit.render(plan, chain.cluster) for plan in wanted}
    found = forecast(plans, chain.cluster, chain.storage())
    found = dataclasses.replace(found, warnings=[*found.warnings, *chain.notes()])
    try:
        grows = [f"run {chain.run} would grow: {line}" for line in chain.pipeline.growth().told()]
        found = dataclasses.replace(found, warnings=[*found.warnings, *grows])
    except UserError as error:
        found = dataclasses.replace(found, warnings=[str(error), *found.warnings])
    try:
        chain.checks()
    except UserError as error:  # what is lacking stops a submission, not a look at it
        faults = re.split(r"\n(?! )", str(error))
        found = dataclasses.replace(found, warnings=[*faults, *found.warnings])
    estimates = {stage: made for stage, made in chain.estimates().items() if stage in selected}
    plan_screen.show([plan.header() for plan in plans], found, texts, estimates)
    return 0


def _demo(args: argparse.Namespace) -> int:
    from diagcot.console.screens import demo
    from launchers.chain import open_chain

    chain = open_chain(args.recipe, args.cluster, args.run or "demo")
    chain.obtain()
    return demo.run(chain)


def _status(args: argparse.Namespace) -> int:
    from diagcot.console.screens import status_screen

    return status_screen.show(_run_dir(args))


def _watch(args: argparse.Namespace) -> int:
    from diagcot.console.screens import watch

    return watch.show(_run_dir(args))


def _logs(args: argparse.Namespace) -> int:
    from diagcot.console.screens import logs

    return logs.show(_run_dir(args), args.stage, args.unit)


def _failures(args: argparse.Namespace) -> int:
    from diagcot.console.screens import failures

    return failures.show(_run_dir(args))


def _retry(args: argparse.Namespace) -> int:
    from diagcot.jobs import pipeline

    run_dir = _own_run_dir(args)
    if args.stage is None:
        raise UserError(f"which stage? `make failures RUN={run_dir.name}` names it: make retry STAGE=…")
    changes = {name: value for name, value in (("mem_gb", args.mem), ("minutes", args.time)) if value is not None}
    root = Path(__file__).resolve().parents[2]
    roots = [root / "diagcot", root / "launchers"] if args.code else ()
    _tell(pipeline.retry(run_dir, args.stage, changes, roots), run_dir.name)
    return 0


def _cancel(args: argparse.Namespace) -> int:
    from diagcot.jobs import chain
    from diagcot.jobs.execution import local

    run_dir = _own_run_dir(args)
    stopped = local.stop(run_dir)
    jobs = chain.cancel(run_dir)
    print(
        f"run {run_dir.name}: {'runner stopped, ' if stopped else ''}{len(jobs)} jobs cancelled; submit again to go on"
    )
    return 0


def _table(args: argparse.Namespace) -> int:
    from diagcot.console.screens import metrics_table

    path = _run_dir(args) / "metrics.json"
    if not path.exists():
        raise UserError(f"{path} is not there yet: the run's evaluation has not ended (make status)")
    return metrics_table.main([str(path)])


def _compare(args: argparse.Namespace) -> int:
    from diagcot.console import text
    from diagcot.console.screens import compare_screen
    from diagcot.evaluation.compare import compare

    one, two = (_find_run(Path(args.logs), name) for name in (args.a, args.b))
    screen = text.console()
    with screen.status("scoring the samples that both runs answered"):
        metrics, costs, notes = compare(one, two, args.draws)
    screen.print(compare_screen.render(metrics, costs, notes, screen))
    return 0


def _traces(args: argparse.Namespace) -> int:
    from diagcot.console.screens import traces_screen

    return traces_screen.show(_run_dir(args))


def _doctor(args: argparse.Namespace) -> int:
    from diagcot.preflight import doctor

    return doctor.main(args.recipe, args.cluster)


def _rehearse(args: argparse.Namespace) -> int:
    from diagcot.preflight.rehearsal import command
    from launchers.chain import open_chain

    return command.main(open_chain(args.recipe, args.cluster, args.run), args.patience)


def _worker(args: argparse.Namespace) -> int:
    from diagcot.jobs import finaliser as finalise
    from diagcot.jobs.execution import worker
    from launchers.chain import open_chain

    chain = open_chain(args.recipe, args.cluster, args.run)
    plan = next((p for p in chain.write() if p.stage == args.stage), None)
    if plan is None:
        raise UserError(f"recipe {args.recipe} has no stage named {args.stage!r}")
    slot = args.task if args.task is not None else int(os.environ.get("SLURM_ARRAY_TASK_ID", 0))
    if slot >= plan.tasks:
        print(f"stage {plan.stage} has {plan.tasks} tasks; task {slot} has nothing to do")
        return 0
    worker.work(plan.path, slot)
    if not plan.missing():
        finalise.summarise(plan, finalise.check(plan))
    return 0


def _shards(args: argparse.Namespace) -> int:
    from diagcot.shards import shard_paths, verify

    if args.action == "verify":
        return verify.check(args.paths)
    if args.action == "rebuild":
        return verify.rebuild(args.paths, args.logs)
    paths = [shard for path in args.paths for shard in (shard_paths(path) if path.is_dir() else [path])]
    if args.action == "info":
        from diagcot.console.screens import shards_screen

        return shards_screen.show(paths)
    return _contact_sheet(paths, args)


def _contact_sheet(paths: list[Path], args: argparse.Namespace) -> int:
    from diagcot.shards import contact

    first: Path = args.paths[0]
    out = args.out or (first if first.is_dir() else first.parent) / "contact.png"
    try:
        count = contact.draw(paths, out, args.count, args.split, args.seed)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}); name another place with --out") from error
    print(f"{out}: {count} films with their boxes and labels; readable by you alone")
    return 0


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    call: Verb = args.call
    os.environ.setdefault("USER", getpass.getuser())  # containers often lack it; cluster files may name it
    try:
        return call(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
