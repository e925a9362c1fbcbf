"""Verbs that plan, start, resubmit and stop work."""

import argparse
import contextlib
import dataclasses
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diagcot.cli.options import Verbs, add_chain_options, add_run_options, add_stage_number_option, chain_of
from diagcot.cli.runs import own_run_folder
from diagcot.console.commands import typed
from diagcot.jobs import UserError

if TYPE_CHECKING:
    from diagcot.jobs import Submitted
    from launchers.chain import Chain

DEMOS = {"tiny": "demo"}
"""Recipe -> the name of its run where `demo` is typed; the run of any other recipe is named after the recipe."""


def add_verbs(verbs: Verbs) -> None:
    """Add submit, plan, scripts, demo, study, sweep, retry, cancel and worker."""
    parser = verbs.add("submit", "submit stages of a run", _submit)
    add_chain_options(parser)
    add_stage_number_option(parser)
    parser.add_argument("--dry", action="store_true", help="show what would be submitted, but submit nothing")

    parser = verbs.add("plan", "show what would be submitted, its cost and its expected start; submit nothing", _plan)
    add_chain_options(parser)
    add_stage_number_option(parser)

    add_chain_options(verbs.add("scripts", "write a batch script for each stage, to submit by hand", _scripts))
    parser = verbs.add("demo", "run the whole chain on this machine and show its metrics", _demo)
    add_chain_options(parser)
    parser.add_argument(
        "--data", choices=["iu"], default=None, help="iu: the recipe's form on IU-Xray, with the images in $IU_XRAY_DIR"
    )
    parser.add_argument(
        "--family",
        default=None,
        help="run the recipe of another family of models, in recipes/families/, from random weights",
    )

    parser = verbs.add("study", "run the ablations of a paper on phantoms and say which claims hold", _study)
    parser.add_argument("--half", default="diagcot", help="name of a study in recipes/study/: diagcot or cx-mind")
    parser.add_argument("--seeds", type=_seeds, default=(7, 8, 9), help="seeds, such as 7,8,9 (the default)")
    parser.add_argument(
        "--cluster", default="laptop", help="name of a cluster in slurm/clusters/, or path of a YAML file"
    )
    parser.add_argument("--run", default=None, help="name of the run (default: study-<half>)")
    parser.add_argument("--dry", action="store_true", help="show what would be submitted, but submit nothing")

    parser = verbs.add(
        "sweep", "run a recipe with several values of its settings and seeds, and compare the models", _sweep
    )
    parser.add_argument("--recipe", default="tiny", help="name of a recipe in recipes/, or path of a YAML file")
    parser.add_argument(
        "--over",
        action="append",
        required=True,
        metavar="STAGE.KEY=VALUES",
        help="a setting and its values, such as grpo.deepspeed.learning_rate=1e-4,5e-4; several settings are combined",
    )
    parser.add_argument("--seeds", type=_seeds, default=(7,), help="seeds, such as 7,8,9 (default: 7)")
    parser.add_argument(
        "--cluster", default="laptop", help="name of a cluster in slurm/clusters/, or path of a YAML file"
    )
    parser.add_argument("--run", default=None, help="name of the run (default: sweep-<recipe>)")
    parser.add_argument("--dry", action="store_true", help="show what would be submitted, but submit nothing")

    parser = verbs.add("retry", "resubmit unfinished tasks of a stage, and the stages that follow it", _retry)
    add_run_options(parser, changes=True)
    parser.add_argument("--stage", default=None, help="name of the stage")
    parser.add_argument(
        "--mem", type=_number_of("gigabytes"), default=None, metavar="GB", help="new memory limit per node in GB"
    )
    parser.add_argument("--time", type=int, default=None, metavar="MINUTES", help="new time limit in minutes")
    parser.add_argument("--code", choices=["new"], default=None, help="new: run the current code of this checkout")

    add_run_options(verbs.add("cancel", "stop a run; finished work is kept", _cancel), changes=True)

    parser = verbs.add("worker", "run one task of a stage, as a job script does", _worker)
    add_chain_options(parser)
    parser.add_argument("--stage", required=True, help="name of the stage")
    parser.add_argument("--task", type=int, default=None, help="task index (default: SLURM_ARRAY_TASK_ID, or 0)")


def _seeds(text: str) -> tuple[int, ...]:
    """The type of an option that takes different whole numbers, separated by commas."""
    with contextlib.suppress(ValueError):
        seeds = tuple(int(part) for part in text.split(","))
        if len(set(seeds)) == len(seeds):
            return seeds
    raise argparse.ArgumentTypeError(f"must be different whole numbers such as 7,8,9, is {text!r}")


def _number_of(what: str) -> Callable[[str], float]:
    """The type of an option that takes a positive number."""

    def parse(text: str) -> float:
        with contextlib.suppress(ValueError):
            if 0 < (value := float(text)) < float("inf"):
                return value
        raise argparse.ArgumentTypeError(f"must be a number of {what}, is {text!r}")

    return parse


def _submit(args: argparse.Namespace) -> int:
    chain = chain_of(args)
    if args.dry:
        return _show_plan(chain, chain.selected(args.stage), _submit_command(args), scripts=True)
    submitted = chain.submit(args.stage)
    for line in chain.pipeline.grew:
        print(f"run {chain.run} has grown: {line}")
    _print_submitted(submitted, chain.run)
    return 0


def _print_submitted(submitted: "Sequence[Submitted]", run: str) -> None:
    width = max(len(row.stage) for row in submitted)
    for row in submitted:
        jobs = f"  jobs {' '.join(row.jobs)}" if row.jobs else ""
        tasks = f"  {row.tasks} task{'s' * (row.tasks != 1)}" if row.tasks else ""
        later = f", {row.later} more as soon as the submit limit allows" if row.later else ""
        print(f"{row.stage:<{width}}  {row.state}{tasks}{later}{jobs}")
    if any(row.state in ("submitted", "queued", "released") for row in submitted):
        print(typed(f"watch it with: make watch RUN={run}"))


def _plan(args: argparse.Namespace) -> int:
    chain = chain_of(args)
    return _show_plan(chain, chain.selected(args.stage), _submit_command(args), scripts=False)


def _scripts(args: argparse.Namespace) -> int:
    from diagcot.jobs.slurm import commands, scripts
    from diagcot.jobs.slurm.limits import ARRAY_SIZE, limits

    chain = chain_of(args)
    if chain.cluster.executor != "slurm":
        raise UserError(f"cluster {chain.cluster.name} does not use Slurm: name one with `executor: slurm` (CLUSTER=…)")
    chain.checks()
    try:
        array_size = limits().array_size
    except commands.SlurmError as error:
        array_size = ARRAY_SIZE
        print(f"arrays have at most {ARRAY_SIZE} tasks, Slurm's default, because Slurm was not asked: {error}")
    for path in scripts.write(chain.write(), chain.cluster, array_size):
        print(path)
    return 0


def _submit_command(args: argparse.Namespace) -> str:
    """The make command that submits what was shown, with the arguments that were given."""
    target = f"submit-stage{args.stage}" if args.stage.isdigit() else f"submit-{args.stage}"
    values = {"RECIPE": args.recipe, "CLUSTER": args.cluster, "RUN": args.run, "SEED": args.seed}
    given = (f"{name}={shlex.quote(str(value))}" for name, value in values.items() if value is not None)
    return typed(" ".join(["make", target, *given]))


def _show_plan(chain: "Chain", selected: set[str], command: str, scripts: bool) -> int:
    """Show the selected stages, and the command that submits them. Problems that would stop it are shown as warnings."""
    from diagcot.console.screens import plan as screen
    from diagcot.jobs.forecast import forecast
    from diagcot.jobs.slurm import submit

    plans = [plan for plan in chain.plans if plan.stage in selected]
    with_scripts = plans if scripts and chain.cluster.executor == "slurm" else []
    texts = {plan.stage: submit.render(plan, chain.cluster) for plan in with_scripts}
    expected = forecast(plans, chain.cluster, chain.storage(), chain.work_storage())
    problems: list[str] = []
    growth: list[str] = []
    claims: list[str] = []  # what is wrong with them stops their study alone
    try:
        chain.checks()
    except UserError as error:
        problems += re.split(r"\n(?! )", str(error))
    if chain.recipe.claims:
        from launchers.composition import check_claims  # imports what reads scores

        try:
            check_claims(chain.recipe, chain.document, chain.root)
        except UserError as error:
            claims.append(str(error))
    try:
        growth += [f"run {chain.run} would grow: {line}" for line in chain.pipeline.growth().lines()]
    except UserError as error:
        problems.append(str(error))
    expected = dataclasses.replace(expected, warnings=[*problems, *expected.warnings, *chain.notes(), *claims, *growth])
    estimates = {stage: estimate for stage, estimate in chain.estimates().items() if stage in selected}
    screen.show([plan.header() for plan in plans], expected, texts, estimates, "" if problems else command)
    return 0


def _demo(args: argparse.Namespace) -> int:
    from diagcot.console import text
    from diagcot.console.screens import demo

    if args.family:
        args.recipe = f"families/{args.family}"
    if args.data:
        args.recipe = f"{args.recipe}-{args.data}"
    chain = chain_of(args, DEMOS.get(args.recipe, ""))
    chain.obtain()
    screen = text.console()
    for line in chain.notes():
        screen.print(f"! {line}", style="yellow", markup=False)  # wrapped between words, as the screens are
    code = demo.run(chain)
    if args.family:
        print(
            f"The base of this run had random weights: its figures show that the chain runs with {args.family}, and no more."
        )
    return code


def _study(args: argparse.Namespace) -> int:
    from launchers.chain import ROOT, chain_on
    from launchers.composition import compose

    chain = chain_on(*compose(args.half, args.seeds, ROOT), args.cluster, args.run)
    return _composed(chain, args, "study", HALF=args.half)


def _sweep(args: argparse.Namespace) -> int:
    from launchers.chain import ROOT, chain_on
    from launchers.sweep import compose

    over = [text for option in args.over for text in option.split()]
    chain = chain_on(*compose(args.recipe, over, args.seeds, ROOT), args.cluster, args.run)
    return _composed(chain, args, "sweep", RECIPE=args.recipe, OVER=" ".join(over))


def _composed(chain: "Chain", args: argparse.Namespace, verb: str, **options: str) -> int:
    """Show, submit or run a chain that was composed from recipes. options: of make, besides those of all such verbs."""
    from diagcot.console.screens import demo

    if args.dry:
        options |= {"SEEDS": ",".join(map(str, args.seeds)), "CLUSTER": args.cluster}
        options |= {"RUN": args.run} if args.run else {}
        given = (f"{name}={shlex.quote(value)}" for name, value in options.items())
        return _show_plan(chain, chain.selected("all"), typed(" ".join(["make", verb, *given])), scripts=False)
    chain.obtain()
    if chain.cluster.executor == "slurm":
        _print_submitted(chain.submit("all"), chain.run)
        return 0
    return demo.run(chain)


def _retry(args: argparse.Namespace) -> int:
    from diagcot.jobs import pipeline
    from diagcot.jobs.plans import stored
    from launchers import own_files
    from launchers.chain import CODE

    folder = own_run_folder(args)
    if args.stage is None:
        raise UserError(f"the stage is missing: make retry STAGE=… (`make failures RUN={folder.name}` names it)")
    changes = {name: value for name, value in (("mem_gb", args.mem), ("minutes", args.time)) if value is not None}
    root = Path(__file__).resolve().parents[2]
    own: Sequence[Path] = ()
    if args.code:
        recipe = own_files.recipe_of(folder)
        kinds = ({"kind": stage.get("kind", "")} for stage in recipe["stages"])
        own = own_files.of_stages([*(plan["settings"] for plan in stored.plans(folder)), *kinds])
    code = [*(root / name for name in CODE), *own] if args.code else ()
    _print_submitted(pipeline.retry_stage(folder, args.stage, changes, code), folder.name)
    return 0


def _cancel(args: argparse.Namespace) -> int:
    from diagcot.jobs.execution import local
    from diagcot.jobs.lease import is_written, write_lease
    from diagcot.jobs.slurm import cancellation
    from diagcot.jobs.state import documents

    folder = own_run_folder(args)
    with contextlib.suppress(OSError):  # a folder that cannot be written: nobody submits
        if is_written(folder):
            print(f"run {folder.name} is being submitted: waiting until its jobs are known", file=sys.stderr)
            with write_lease(folder):
                pass
    stopped = local.stop(folder)
    try:
        kind, wrong = str(documents.read(folder / "cluster.yaml", documents.CLUSTER).get("executor", "")), ""
    except (OSError, UserError) as error:  # then the records of jobs decide whether Slurm is asked
        kind, wrong = "", str(error)
    jobs = cancellation.cancel(folder) if kind == "slurm" or (not kind and cancellation.has_jobs(folder)) else []
    runner = "runner stopped, " if stopped else ""
    if wrong and cancellation.has_jobs(folder):
        raise UserError(
            f"run {folder.name}: {runner}{len(jobs)} jobs cancelled, those that Slurm knows in this environment; others"
            f" may be left, since the environment of the run is not known: {wrong}"
        )
    if not stopped and not jobs and _is_finished(folder):
        print(f"run {folder.name}: 0 jobs cancelled, there was nothing to cancel: all its stages are finished")
        return 0
    print(f"run {folder.name}: {runner}{len(jobs)} jobs cancelled; submit the run again to continue")
    return 0


def _is_finished(run_dir: Path) -> bool:
    """Whether all units of all stages are done. False where a file of the run is damaged."""
    from diagcot.jobs.plans import stored
    from diagcot.jobs.state import ledger

    plans, wrong = stored.whole(run_dir)
    return not wrong and all(len(ledger.done_keys(run_dir / plan["stage"])) >= plan["units"] for plan in plans)


def _worker(args: argparse.Namespace) -> int:
    from diagcot.jobs import summary
    from diagcot.jobs.execution import worker

    chain = chain_of(args)
    plan = next((plan for plan in chain.write() if plan.stage == args.stage), None)
    if plan is None:
        raise UserError(f"recipe {args.recipe} has no stage named {args.stage!r}")
    task_index = args.task if args.task is not None else int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
    if task_index >= plan.tasks:
        print(f"stage {plan.stage} has {plan.tasks} tasks; task {task_index} has nothing to do")
        return 0
    worker.work(plan.path, task_index)
    if not plan.missing():
        summary.summarise(plan, summary.check(plan))
    return 0
