"""Reads a recipe and a cluster and turns them into the plans of a run; hands the plans to `diagcot.jobs`."""

import importlib
import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ValidationError

from diagcot.jobs import Cluster, Pipeline, Plan, Submitted, Unit, UserError
from diagcot.jobs import cluster as clusters
from diagcot.jobs.names import check_name
from diagcot.jobs.settings import Document, Settings, near
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
        return self.pipeline.run_dir

    @property
    def shards_root(self) -> Path:
        return self._path(self.cluster.roots.shards)

    def _path(self, path: Path) -> Path:
        return path if path.is_absolute() else self.root / path

    def spec(self, name: str) -> StageSpec:
        return next(spec for spec in self.recipe.stages if spec.name == name)

    def launcher(self, spec: StageSpec) -> ModuleType:
        known = kinds(self.root)
        if spec.kind not in known:
            where = self.document.where(("stages", self.recipe.stages.index(spec), "kind"))
            raise UserError(f"{where}: unknown kind {spec.kind!r}{near(spec.kind, known)}")
        return importlib.import_module(known[spec.kind])

    def settings(self, spec: StageSpec) -> BaseModel:
        """The stage's settings, typed. Raises UserError with file and line."""
        at = ("stages", self.recipe.stages.index(spec), "settings")
        return self.document.check(self.launcher(spec).SETTINGS, spec.settings, at)

    def output(self, name: str) -> Path:
        """Where a stage's product goes: weights, data, or the run's report."""
        return self.pipeline.output(name, self.launcher(self.spec(name)).PRODUCT)

    @cached_property
    def _units(self) -> dict[str, list[Unit]]:
        return {}

    def units_of(self, name: str) -> list[Unit]:
        if name not in self._units:
            spec = self.spec(name)
            self._units[name] = self.launcher(spec).units(spec, self)
        return self._units[name]

    @cached_property
    def pipeline(self) -> Pipeline:
        """All stages of the recipe, declared. Raises UserError before anything is written."""
        made = Pipeline(
            self.run,
            self.cluster,
            self.root,
            code=[self.root / "diagcot", self.root / "launchers"],
            seed=self.recipe.seed,
            about={"recipe": self.recipe.name},
            keep={"recipe.yaml": self.document.text, "estimates.json": json.dumps(self.estimates(), indent=1) + "\n"},
        )
        plans: dict[str, Plan] = {}
        for spec in self.recipe.stages:
            launcher = self.launcher(spec)
            count, role = getattr(launcher, "YIELDS", ("", ""))
            plans[spec.name] = made.stage(
                spec.name,
                launcher.KIND,
                self.units_of(spec.name),
                launcher.SIZE,
                settings=self.settings(spec),
                inputs={role: [plans[name] for name in names] for role, names in spec.inputs.items()},
                after=[plans[name] for name in spec.follows],
                each=[plans[name] for name in spec.inputs[spec.elementwise]] if spec.elementwise else (),
                product=launcher.PRODUCT,
                number=spec.number,
                startup_s=launcher.STARTUP_S,
                unit_s=spec.unit_seconds or launcher.UNIT_S,
                yields=count,
                yields_from=[plans[name] for name in spec.inputs.get(role, ())],
                grows=getattr(launcher, "GROWS", ""),
                listed=getattr(launcher, "LISTED", ()),
            )
        return made

    @property
    def plans(self) -> list[Plan]:
        """The plan of every stage, in order. Raises UserError before anything is written."""
        return self.pipeline.plans

    def checks(self) -> None:
        """What the stages need from this machine, asked of each launcher that has a `check`. Raises one UserError."""
        faults: dict[str, None] = {}
        for spec in self.recipe.stages:
            try:
                self.settings(spec)  # a mistake in them is told with its line
                check = getattr(self.launcher(spec), "check", None)
                if check:
                    check(spec, self)
            except UserError as error:
                faults[str(error)] = None
        faults |= dict.fromkeys(self._trained_on_test())
        if faults:
            raise UserError("\n".join(faults))

    def _trained_on_test(self) -> Iterator[str]:
        """What is wrong with stages that make weights from data of the test split, which evaluation alone may read."""
        sources: dict[str, set[str]] = {}  # stage -> data stages of the test split that it was made from
        for index, spec in enumerate(self.recipe.stages):
            mine = {spec.name} if spec.settings.get("split") == "test" else set()
            sources[spec.name] = mine.union(*(sources[name] for name in spec.follows))
            if sources[spec.name] and self.launcher(spec).PRODUCT == "weights":
                where = self.document.where(("stages", index, "inputs"))
                names = ", ".join(sorted(sources[spec.name]))
                yield (
                    f"{where}: stage {spec.name} trains on {names}, whose split is test: a model trained"
                    " or chosen on the test split has no honest score; use train or validate"
                )

    def notes(self) -> list[str]:
        """What is worth knowing about the stages before they run, asked of each launcher that has `notes`."""
        found: list[str] = []
        for spec in self.recipe.stages:
            told = getattr(self.launcher(spec), "notes", None)
            found += told(spec, self) if told else []
        return found

    def obtain(self) -> None:
        """Fetch what the stages read and a package index carries, asked of each launcher that has an `obtain`."""
        for spec in self.recipe.stages:
            obtain = getattr(self.launcher(spec), "obtain", None)
            if obtain:
                obtain(spec, self)

    def storage(self) -> dict[str, int | None]:
        """Stage -> bytes it will write, asked of each launcher that has a `storage`; None: not known."""
        found: dict[str, int | None] = {}
        for spec in self.recipe.stages:
            estimate = getattr(self.launcher(spec), "storage", None)
            try:
                found[spec.name] = estimate(spec, self) if estimate else None
            except (UserError, ValidationError):  # what is wrong with it, `checks` and the settings say
                found[spec.name] = None
        return found

    def estimates(self) -> dict[str, dict[str, Any]]:
        """Stage -> memory and GPU-hours, asked of each launcher that has an `estimate`; those not known are left out."""
        found: dict[str, dict[str, Any]] = {}
        for spec in self.recipe.stages:
            ask = getattr(self.launcher(spec), "estimate", None)
            try:
                made = ask(spec, self) if ask else None
            except (UserError, ValidationError):  # as with `storage`
                continue
            if made is not None:
                found[spec.name] = made.to_json()
        return found

    def selected(self, number: str) -> set[str]:
        """Names of the stages of `number`, or of all of them."""
        names = {spec.name for spec in self.recipe.stages if number in ("all", spec.number)}
        if not names:
            numbers = dict.fromkeys(spec.number for spec in self.recipe.stages)
            raise UserError(f"recipe {self.recipe.name} has no stage {number!r}; it has {', '.join(numbers)}")
        return names

    def write(self) -> list[Plan]:
        """Create the run's folder and plans, or check that they say the same. Returns the plans of the run."""
        return self.pipeline.write()

    def submit(self, number: str) -> list[Submitted]:
        """Write the plans and submit the stages of `number`; on a laptop, start the runner."""
        selected = self.selected(number)
        self.checks()
        roots = self.cluster.roots
        require_writable([self._path(root) for root in (roots.logs, roots.shards, roots.models)])
        return self.pipeline.submit(selected)


RENAMED_KINDS = {"primer": "synthetic-sft"}


def kinds(root: Path = ROOT) -> dict[str, str]:
    """Every kind of stage and the module of launchers/ that declares it."""
    files = (root / "launchers").glob("*/[a-z]*.py")
    return {path.stem.replace("_", "-"): f"launchers.{path.parent.name}.{path.stem}" for path in files}


def settings_model(kind: str, root: Path = ROOT) -> tuple[str, type[Settings]] | None:
    """The present name of a kind and its settings model; None if there is no such kind."""
    name, known = RENAMED_KINDS.get(kind, kind), kinds(root)
    return (name, importlib.import_module(known[name]).SETTINGS) if name in known else None


def open_chain(recipe: str, cluster: str, run: str | None, root: Path = ROOT) -> Chain:
    """The chain of a recipe on a cluster. Raises UserError for anything a person may have mistyped."""
    found, document = find_recipe(recipe, root, lambda kind: settings_model(kind, root))
    check_name(run or found.name)
    on = clusters.find_cluster(cluster, root)
    on.enter()
    return Chain(found, document, on, run or found.name, root)


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
