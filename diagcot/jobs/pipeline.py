"""A pipeline of stages on a cluster: what a launcher declares, writes as a run's folder, and submits."""

import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from diagcot.jobs import chain
from diagcot.jobs.chain import Submitted
from diagcot.jobs.cluster import Cluster
from diagcot.jobs.errors import UserError
from diagcot.jobs.execution import code as codes
from diagcot.jobs.execution import debug, local
from diagcot.jobs.lease import lease
from diagcot.jobs.names import check_name, check_stage
from diagcot.jobs.owners import require_own
from diagcot.jobs.plans import growth, segments
from diagcot.jobs.plans import plan as plans
from diagcot.jobs.plans.growth import Growth
from diagcot.jobs.plans.plan import Edge, Grows, Headline, Plan
from diagcot.jobs.plans.stored import stages
from diagcot.jobs.plans.units import Unit, Units
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.state import attempts, runner
from diagcot.jobs.state.files import create_exclusively


class Pipeline:
    """Stages in order, under the name of a run. Nothing is written before `write` or `submit`.

    root: where relative roots of the cluster begin. code: packages and modules that the jobs run, beside this one;
    a copy of them is made at submission. about: further fields of run.json. keep: further files of the run's folder.
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
        self.code_roots = list(dict.fromkeys([codes.PACKAGE, *(Path(path).resolve() for path in code)]))
        self.about = {"run": run, "uuid": uuid.uuid4().hex, "cluster": cluster.name, **(about or {})}
        self.keep = dict(keep or {})
        self.plans: list[Plan] = []
        self.grew: list[str] = []  # what the last `write` added to a run that was there

    @property
    def run_dir(self) -> Path:
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
        return self.run_dir / "code" / codes.digest(self.code_roots)

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
    ) -> Plan:
        """Declare the next stage; returns its plan, which later stages name in `after`, `each` and `inputs`.

        kind: import path of the module that does the work. settings: what the work is given; a typed model also lets an
        existing run be compared whose settings have old keys. size: one of the cluster's. each: stages that this one
        follows unit by unit. inputs: role -> stages whose products are read; they are followed too.
        startup_s, unit_s: what a task and a unit cost, by which units are packed into tasks. yields: the count of what
        the stage is for, of which a thousand are priced in GPU-hours, those of the stages `yields_from` included.
        grows: whether the stage of a run that was written may grow (see `diagcot.jobs.plans.growth`); listed: settings that
        may differ then, because they only say which units there are and what stands in their parameters.
        Raises UserError if the cluster has no such size, if units are to follow others but differ from them, or if
        `name` cannot be a stage's.
        """
        check_stage(name)
        units_listed = Units(units)
        resources = self.cluster.resources(size, name)
        read = [plan for role in (inputs or {}).values() for plan in role]
        for pair in elementwise:
            if pair.keys != units_listed.keys:
                raise UserError(f"stage {name} follows {pair.stage} unit by unit, but their units differ")
        follows = dict.fromkeys(plan.stage for plan in [*after, *read, *elementwise])
        plan = Plan(
            run=self.run,
            stage=name,
            number=number,
            kind=kind,
            settings=settings.model_dump(mode="json") if isinstance(settings, BaseModel) else dict(settings or {}),
            settings_model=type(settings) if isinstance(settings, BaseModel) else None,
            inputs={role: [str(plan.output) for plan in sources] for role, sources in (inputs or {}).items()},
            output=self.output(name, product),
            workspace=self._path(self.cluster.roots.models) / self.run / ".work" / name,
            shards_root=self._path(self.cluster.roots.shards),
            seed=self.seed,
            after=tuple(Edge(stage, stage in [pair.stage for pair in elementwise]) for stage in follows),
            resources=resources,
            tasks=elementwise[0].tasks
            if elementwise
            else plans.pack(len(units_listed), startup_s, unit_s, resources.minutes),
            path=self.run_dir / name,
            startup_s=startup_s,
            unit_s=unit_s,
            code=str(self.code),
            cluster=self.cluster.name,
            setup=tuple(self.cluster.setup),
            headline=Headline(headline_count, tuple(plan.stage for plan in headline_stages)),
            grows=grows,
            selector_settings=tuple(selector_settings),
            units=units_listed,
        )
        self.plans.append(plan)
        return plan

    def growth(self) -> Growth:
        """What this pipeline has beyond the run as it was written. Writes nothing; raises as `write` does."""
        return growth.growth(self.run_dir, self.plans)

    def write(self) -> list[Plan]:
        """Create the run's folder and plans, let them grow, or check that they say the same; returns the plans.

        Raises UserError with the differences if the run was planned otherwise, if it belongs to another user, or if a
        stage is to grow that is queued or running; then nothing is written.
        """
        os.umask(0o077)
        self.run_dir.mkdir(parents=True, exist_ok=True)
        require_own(self.run_dir)
        with lease(self.run_dir / "write"):
            more = self.growth()
            new = [plan for plan in self.plans if not (plan.path / "plan.json").exists()]
            with self._at_rest(more):
                about = self.about | {"stages": [plan.stage for plan in self.plans]}
                create_exclusively(self.run_dir / "run.json", json.dumps(about, indent=1) + "\n")
                for name, text in self.keep.items():
                    create_exclusively(self.run_dir / name, text)
                if new or any(plans.read(plan.path).code == str(self.code) for plan in self.plans):
                    codes.snapshot(self.code_roots, self.code)
                for plan in new:
                    plans.create(plan)
                cluster = json.dumps(self.cluster.stored(), indent=1)
                (self.run_dir / "cluster.yaml").write_text(cluster + "\n")
                (self.run_dir / "stages").write_text("\n".join(plan.stage for plan in self.plans) + "\n")
                self.grew = more.told()
                if more:
                    more.commit(self.keep, self.code.name)
                written = [plans.with_resources(plan) for plan in self.plans]
                for plan in written:
                    growth.close(plan)
        return written

    @contextmanager
    def _at_rest(self, more: Growth) -> Iterator[None]:
        """Hold off all who could begin to work on stages that grow. Raises UserError if somebody does.

        Stages that join hold up nobody on Slurm; a laptop's runner would not learn of them.
        """
        if not more or self.cluster.executor == "debug":
            yield
        elif self.cluster.executor == "slurm":
            with chain.submit_lease(self.run_dir):
                for stage in more.additions:
                    if attempts.intended(self.run_dir / stage) or chain.alive(self.run_dir / stage):
                        raise UserError(_not_now(self.run, f"stage {stage} is queued or running"))
                yield
        elif (held := runner.lock(self.run_dir)) is None:
            raise UserError(_not_now(self.run, "it is being worked on"))
        else:
            with held:
                yield

    def reachable(self) -> None:
        """Raise SlurmError if the cluster is Slurm's and gives no answer: then nothing is to be written either."""
        self.cluster.enter()
        if self.cluster.executor == "slurm":
            slurm.config()

    def submit(self, stages: Iterable[str] | None = None) -> list[Submitted]:
        """Write the run and submit `stages` (all of them by default): to Slurm, to this machine's runner, or, for a
        debugger, one unit after the other in this process."""
        self.reachable()
        written = self.write()
        selected = {plan.stage for plan in self.plans} if stages is None else set(stages)
        if self.cluster.executor == "slurm":
            return chain.submit_chain(written, selected, self.cluster)
        chain.require_upstream(written, selected)
        mine = [plan for plan in written if plan.stage in selected]
        todo = [plan for plan in mine if plan.missing()]
        told = [
            Submitted(plan.stage, "submitted" if plan in todo else "complete", (), len(plan.open_tasks()))
            for plan in mine
        ]
        if self.cluster.executor == "debug":
            debug.run(todo)
        elif todo:
            local.start(self.run_dir, [plan.stage for plan in mine])
        return told


def _not_now(run: str, why: str) -> str:
    return (
        f"run {run} cannot grow now: {why}. Wait until it has ended (`make watch RUN={run}`), or end it (`make cancel"
        f" RUN={run}`); then submit again. Nothing was changed"
    )


def retry_stage(
    run_dir: Path, stage: str, changes: Mapping[str, Any] | None = None, code: Sequence[Path] = ()
) -> list[Submitted]:
    """Submit what is open of a stage once more, and what follows it and has gone.

    changes: fields of its size, from now on (on Slurm). code: packages to take a new snapshot of; none keeps the code
    that the stage ran last. Held jobs of a stage that is still queued are released instead. Raises UserError if there is
    nothing to retry.
    """
    require_own(run_dir)
    cluster = Cluster.read(run_dir)
    cluster.enter()
    target = run_dir / "code" / codes.digest(code) if code else None
    if target:
        codes.snapshot(code, target)
    found = [plans.read(run_dir / name) for name in stages(run_dir)]
    for one in found:
        segments.verify(one.path, one.segments)
        growth.close(one)
    plan = next((plan for plan in found if plan.stage == stage), None)
    if plan is None:
        raise UserError(f"run {run_dir.name} has no stage {stage!r}; it has {', '.join(p.stage for p in found)}")
    if not plan.missing():
        raise UserError(f"stage {stage} is complete: there is nothing to run again")
    new = str(target or "")
    if cluster.executor == "slurm":
        return chain.retry(found, plan, cluster, dict(changes or {}), new)
    later = [stage, *chain.downstream(found, stage)]
    if not local.start(run_dir, later, new):
        raise UserError(f"run {run_dir.name} is being worked on: `make watch` shows it, `make cancel` stops it")
    return [Submitted(p.stage, "submitted", (), len(p.open_tasks())) for p in found if p.stage in later]
