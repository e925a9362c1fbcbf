"""A pipeline of stages on a cluster: what a launcher declares, writes as a run's folder, and submits."""

import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from diagcot.jobs import chain, owners, summary
from diagcot.jobs.chain import Submitted
from diagcot.jobs.cluster import Cluster, Size, load_cluster
from diagcot.jobs.environment import code as codes
from diagcot.jobs.environment import python
from diagcot.jobs.errors import UserError
from diagcot.jobs.execution import debug, local
from diagcot.jobs.lease import submit_lease, write_lease
from diagcot.jobs.names import check_folder, check_name, check_stage
from diagcot.jobs.owners import require_own
from diagcot.jobs.plans import growth, segments
from diagcot.jobs.plans import plan as plans
from diagcot.jobs.plans.growth import Growth
from diagcot.jobs.plans.plan import Edge, Grows, Headline, Plan
from diagcot.jobs.plans.stored import require_submitted, stages
from diagcot.jobs.plans.units import Unit, Units
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.state import attempts, documents, index, runner
from diagcot.jobs.state.files import create_exclusively, private_folder, write_json, write_text


class Pipeline:
    """Stages in order, under the name of a run. Nothing is written before `write` or `submit`.

    root: the folder that relative roots of the cluster start from. code: packages and modules that the jobs run besides
    diagcot; they are copied at submission. seed: of all stages. about: more fields of run.json. keep: more files of the
    run's folder, name -> text.
    """

    def __init__(
        self,
        run: str,
        cluster: Cluster,
        root: Path | str = ".",
        code: Sequence[Path | str] = (),
        seed: int = 0,
        about: Mapping[str, Any] | None = None,
        keep: Mapping[str, str] | None = None,
    ) -> None:
        check_name(run)
        self.run, self.cluster, self.root, self.seed = run, cluster, Path(root).resolve(), seed
        check_folder(self.run_dir)
        self.code_roots = list(dict.fromkeys([codes.PACKAGE, *(Path(path).resolve() for path in code)]))
        file = {"cluster_file": str(cluster.file)} if cluster.file else {}
        self.about = {"run": run, "uuid": uuid.uuid4().hex, "cluster": cluster.name, **file, **(about or {})}
        self.keep = dict(keep or {})
        self.plans: list[Plan] = []
        self.grew: list[str] = []  # what the last `write` added to an existing run
        self._links: dict[Path, Path] = {}  # where this run looks for a product -> where another run has made it

    @property
    def run_dir(self) -> Path:
        """The run's folder, `logs/<run>`."""
        return self._path(self.cluster.roots.logs) / self.run

    def _path(self, path: Path) -> Path:
        return path if path.is_absolute() else self.root / path

    def output(self, stage: str, product: str = "data") -> Path:
        """Where a stage's product goes; `product`: data, weights, or report (the run's own folder)."""
        if product == "report":
            return self.run_dir
        root = self.cluster.roots.models if product == "weights" else self.cluster.roots.shards
        return self._path(root) / self.run / stage

    @cached_property
    def code(self) -> Path:
        """The snapshot of the code that this pipeline's jobs run."""
        return self.run_dir / codes.FOLDER / codes.digest(self.code_roots)

    def stage(
        self,
        name: str,
        kind: str,
        units: Iterable[Unit | str],
        size: str,
        *,
        settings: Mapping[str, Any] | BaseModel | None = None,
        after: Sequence[Plan] = (),
        elementwise: Sequence[Plan] = (),
        inputs: Mapping[str, Sequence[Plan]] | None = None,
        product: str = "data",
        number: str = "0",
        startup_s: float = 0,
        unit_s: float = 60,
        headline_count: str = "",
        headline_stages: Sequence[Plan] = (),
        grows: Grows = "",
        selector_settings: Sequence[str] = (),
        former_kind: str = "",
        seed: int | None = None,
    ) -> Plan:
        """Declare the next stage; returns its plan, which later stages name in `after`, `each` and `inputs`.

        kind: import path of what does the work, `module` or `module:function`. size: a resource profile of the cluster.
        settings: what the work is given; a typed model also lets an existing run be compared whose settings have old
        keys. after: stages that this one follows as a whole; elementwise: those that it follows unit by unit; inputs:
        role -> stages whose products it reads, and which it follows too; those of another run must be complete. product:
        data, weights, or report, see `output`. number: what `make submit-stage…` selects it by. startup_s, unit_s:
        seconds before the first unit of a task and for each unit, by which units are packed into tasks. headline_count:
        the counter whose GPU-hours are reported, those of `headline_stages` included. grows: whether a stage of an existing
        run may grow (see `Grows` in
        `diagcot.jobs.plans.plan`); selector_settings may differ then, because they only select units.
        former_kind: what `kind` was in the last release. seed: None is the pipeline's.
        Raises UserError if the cluster has no such profile, if the units of an elementwise stage differ, or if `name`
        cannot name a stage.
        """
        check_stage(name)
        units_listed = Units(units)
        resources = self.cluster.resources(size, name)
        read = [plan for role in (inputs or {}).values() for plan in role]
        for pair in elementwise:
            if pair.keys != units_listed.keys:
                raise UserError(f"stage {name} follows {pair.stage} unit by unit, but their units differ")
        # What another run has made is complete, and no job of this run to wait for.
        pairs = [plan for plan in elementwise if plan.path.parent == self.run_dir]
        follows = dict.fromkeys(
            plan.stage for plan in [*after, *read, *elementwise] if plan.path.parent == self.run_dir
        )
        plan = Plan(
            run=self.run,
            stage=name,
            number=number,
            kind=kind,
            settings=settings.model_dump(mode="json") if isinstance(settings, BaseModel) else dict(settings or {}),
            former_kind=former_kind,
            settings_model=type(settings) if isinstance(settings, BaseModel) else None,
            inputs={role: [str(plan.output) for plan in sources] for role, sources in (inputs or {}).items()},
            output=self.output(name, product),
            workspace=self._path(self.cluster.roots.models) / self.run / ".work" / name,
            shards_root=self._path(self.cluster.roots.shards),
            seed=self.seed if seed is None else seed,
            after=tuple(Edge(stage, stage in [pair.stage for pair in pairs]) for stage in follows),
            resources=resources,
            profile=size,
            tasks=pairs[0].tasks if pairs else plans.pack(len(units_listed), startup_s, unit_s, resources.minutes),
            path=self.run_dir / name,
            startup_s=startup_s,
            unit_s=unit_s,
            code=str(self.code),
            cluster=self.cluster.name,
            setup=tuple(self.cluster.setup),
            headline=Headline(
                headline_count, tuple(plan.stage for plan in headline_stages if plan.path.parent == self.run_dir)
            ),
            grows=grows,
            selector_settings=tuple(selector_settings),
            units=units_listed,
        )
        self.plans.append(plan)
        return plan

    def reuse(self, name: str, made: Plan, product: str) -> Plan:
        """Take what a complete stage of another run has made as the product of a stage `name`, which has no jobs here.

        Returns the plan that later stages name in `elementwise` and `inputs`. `write` makes a link to the product, so that
        nothing is copied. Raises UserError if `name` cannot name a stage.
        """
        check_stage(name)
        output = self.output(name, product)
        self._links[output] = made.output
        return replace(made, output=output)

    def growth(self) -> Growth:
        """What this pipeline has beyond the stored run. Writes nothing; raises as `write` does."""
        return growth.growth(self.run_dir, self.plans)

    def write(self) -> list[Plan]:
        """Create the run's folder and plans, let them grow, or check that they say the same; returns the plans.

        Raises UserError with the differences if the stored run differs, if it belongs to another user, or if a stage
        would grow that is queued or running; then nothing is written.
        """
        with self._writing():
            return self._write()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        os.umask(0o077)
        private_folder(self.run_dir)
        require_own(self.run_dir)
        with write_lease(self.run_dir):
            yield

    def _write(self) -> list[Plan]:
        growth_now = self.growth()
        new = [plan for plan in self.plans if not (plan.path / "plan.json").exists()]
        with self._at_rest(growth_now):
            about = self.about | {"stages": [plan.stage for plan in self.plans]}
            create_exclusively(self.run_dir / "run.json", json.dumps(about, indent=1) + "\n")
            for name, text in self.keep.items():
                create_exclusively(self.run_dir / name, text)
            for link, target in self._links.items():
                _link(link, target)
            if new or any(plans.read(plan.path).code == str(self.code) for plan in self.plans):
                codes.snapshot(self.code_roots, self.code)
            for plan in new:
                plans.create(plan)
            _write_cluster(self.run_dir, self.cluster)
            write_text(self.run_dir / "stages", "\n".join(plan.stage for plan in self.plans) + "\n")
            self.grew = growth_now.lines()
            if growth_now:
                growth_now.commit(self.keep, self.code.name)
            python.record(self.run_dir)
            _keep_place(self.run_dir)
            index.add(self.run_dir)
            written = [plans.with_resources(plan) for plan in self.plans]
            for plan in written:
                growth.close(plan)
        return written

    @contextmanager
    def _at_rest(self, growth_now: Growth) -> Iterator[None]:
        """Keep others from starting work on stages that grow. Raises UserError if somebody works on them.

        On Slurm stages that join disturb nobody; a laptop's runner would not notice them.
        """
        if not growth_now:
            yield
        elif self.cluster.executor == "slurm":
            with submit_lease(self.run_dir):
                for stage in growth_now.additions:
                    if attempts.intended(self.run_dir / stage) or chain.alive(self.run_dir / stage):
                        raise UserError(_not_now(self.run, f"stage {stage} is queued or running"))
                yield
        elif (held := runner.lock(self.run_dir)) is None:
            raise UserError(_not_now(self.run, "it is being worked on"))
        else:
            with held:
                yield

    def reachable(self) -> None:
        """Raise SlurmError if the cluster has Slurm and it does not answer; nothing should be written then."""
        self.cluster.enter()
        if self.cluster.executor == "slurm":
            slurm.config()

    def submit(self, stages: Iterable[str] | None = None) -> list[Submitted]:
        """Write the run and submit `stages` (all by default): to Slurm, to this machine's runner, or in this process.

        Raises UserError as `write` does, or if a stage follows one that is neither complete nor selected.
        """
        self.reachable()
        selected = {plan.stage for plan in self.plans} if stages is None else set(stages)
        if not (
            self.run_dir / "run.json"
        ).exists():  # nothing of a new run can be queued, and a refused one leaves no folder
            chain.require_upstream(self.plans, selected)
        with self._writing():  # until its jobs are known: a cancellation waits for them
            written = self._write()
            for plan in written:
                if plan.stage in selected:
                    summary.reopen(plan, summary.LAG_S if self.cluster.executor == "slurm" else 0)
            if self.cluster.executor == "slurm":
                return chain.submit_chain(written, selected, self.cluster)
            chain.require_upstream(written, selected)
            own = [plan for plan in written if plan.stage in selected]
            todo = [plan for plan in own if plan.missing()]
            open_tasks = {plan.stage: len(plan.open_tasks()) for plan in own}
            state = "done" if self.cluster.executor == "debug" else self._start(own, todo)
        if self.cluster.executor == "debug" and not debug.run(self.run_dir, todo):
            raise UserError(f"stage {todo[0].stage} was not submitted: {_busy(self.run_dir)}")
        return [
            Submitted(plan.stage, state if plan in todo else "complete", (), open_tasks[plan.stage]) for plan in own
        ]

    def _start(self, own: Sequence[Plan], todo: Sequence[Plan]) -> str:
        """Start this machine's runner if there is work. Returns what becomes of it: `submitted`, or `queued` already."""
        if todo and local.start(self.run_dir, [plan.stage for plan in own]):
            return "submitted"
        if idle := [plan.stage for plan in todo if not local.worked_on(self.run_dir, plan)]:
            raise UserError(f"stage {idle[0]} was not submitted: {_busy(self.run_dir)}")
        return "queued"


def _link(link: Path, target: Path) -> None:
    """Make a link to the product of another run, or leave the one that is there. Raises UserError if something else is."""
    if link.is_symlink() and link.readlink() == target:
        return
    if link.is_symlink() and not link.exists():  # to where the product was before it was moved
        link.unlink()
    if link.exists() or link.is_symlink():
        raise UserError(f"{link} is in the way of a link to {target}: move it away, or use another RUN=name")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)


def _write_cluster(run_dir: Path, cluster: Cluster) -> None:
    """Record the cluster as it is at this submission; jobs read it, so it is never half written."""
    write_json(run_dir / "cluster.yaml", cluster.stored())


def _keep_place(run_dir: Path) -> None:
    """Record where the run is: what it writes from now on names the folders of this place, and a copy is known by it."""
    place, known = owners.place(run_dir), owners.places(run_dir)
    if place not in known:
        write_json(run_dir / owners.PLACES, [*known, place])


def _current_cluster(run_dir: Path, before: Cluster) -> Cluster:
    """The cluster as its file says now, with the folders and the executor that the run began with.

    The one of the last submission where the file is not known, or not there any more. Raises UserError if it is wrong.
    """
    file = Path(documents.read(run_dir / "run.json", documents.RUN).get("cluster_file") or "/")
    if not file.is_file():
        return before
    now = load_cluster(file)
    return now.model_copy(update={name: getattr(before, name) for name in ("name", "executor", "roots", "extends")})


def _busy(run_dir: Path) -> str:
    run = run_dir.name
    if host := runner.elsewhere(run_dir):
        return (
            f"run {run} is being worked on by its runner on {host}: look there. If that machine is gone, remove"
            f" {run_dir / 'runner.lock'}"
        )
    return f"run {run} is being worked on: `make watch RUN={run}` shows it, `make cancel RUN={run}` stops it"


def _not_now(run: str, why: str) -> str:
    return (
        f"run {run} cannot grow now: {why}. Wait until it has ended (`make watch RUN={run}`), or end it (`make cancel"
        f" RUN={run}`); then submit again. Nothing was changed"
    )


def _check_changes(changes: Mapping[str, Any]) -> None:
    """Raise UserError unless a resource profile may hold these values."""
    try:
        Size.model_validate(dict(changes))
    except ValidationError as error:
        (wrong, *_) = error.errors()
        said = wrong["msg"].removeprefix("Input should be ")
        raise UserError(f"{wrong['loc'][0]} must be {said}, is {wrong['input']}: nothing was changed") from error


def retry_stage(
    run_dir: Path, stage: str, changes: Mapping[str, Any] | None = None, code: Sequence[Path] = ()
) -> list[Submitted]:
    """Submit the open tasks of a stage again, and the stages that follow it and are not queued.

    changes: fields of its resources, from now on (on Slurm). code: packages to take a new snapshot of; with none the stage
    keeps the code that it ran last. Held jobs of a stage that is still queued are released instead. Raises UserError if
    there is nothing to retry.
    """
    require_own(run_dir)
    require_submitted(run_dir)
    _check_changes(changes or {})
    before = Cluster.read(run_dir)
    cluster = _current_cluster(run_dir, before)
    cluster.enter()
    if changed := cluster.differences(before):
        print(
            f"taken from {cluster.file}, which has changed since the last submission: {', '.join(changed)}", flush=True
        )
    target = run_dir / codes.FOLDER / codes.digest(code) if code else None
    if target:
        codes.snapshot(code, target)
    stored = [plans.read(run_dir / name) for name in stages(run_dir)]
    for plan_of_run in stored:
        segments.verify(plan_of_run.path, plan_of_run.segments)
        growth.close(plan_of_run)
    python.record(run_dir)
    _keep_place(run_dir)
    plan = next((plan for plan in stored if plan.stage == stage), None)
    if plan is None:
        raise UserError(f"run {run_dir.name} has no stage {stage!r}; it has {', '.join(p.stage for p in stored)}")
    if not plan.missing() and not summary.reopen(plan, summary.LAG_S if cluster.executor == "slurm" else 0):
        if cluster.executor == "slurm" and (released := chain.release(plan)):  # its finaliser, for which others wait
            return [released]
        raise UserError(f"stage {stage} is complete: there is nothing to run again")
    new = str(target or "")
    if changed:
        _write_cluster(run_dir, cluster)
    if cluster.executor == "slurm":
        return chain.retry(stored, plan, cluster, dict(changes or {}), new, before if changed else None)
    later = [stage, *chain.downstream(stored, stage)]
    todo = [p for p in stored if p.stage in later]
    state = "done" if cluster.executor == "debug" else "submitted"
    results = [Submitted(p.stage, state, (), len(p.open_tasks())) for p in todo]
    # `debug` runs the code of this process
    if not (debug.run(run_dir, todo) if cluster.executor == "debug" else local.start(run_dir, later, new)):
        raise UserError(_busy(run_dir))
    return results
