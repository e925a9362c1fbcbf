"""Reads a recipe and a cluster and turns them into the plans of a run; hands the plans to `diagcot.jobs`."""

import contextlib
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from diagcot.jobs import Cluster, OwnCodeError, Pipeline, Plan, Submitted, Unit, UserError, find_cluster
from diagcot.jobs.cluster import Size
from diagcot.jobs.environment import code
from diagcot.jobs.names import check_name, near
from diagcot.jobs.plans.reused import FILE as REUSED_FILE
from diagcot.jobs.settings import Document, Settings
from diagcot.recipe import Recipe, StageSpec
from diagcot.recipe import find as find_recipe
from diagcot.tasks.prompt_set import PromptedSettings
from launchers import contradictions, inputs, own_files, registry, reuse
from launchers.reuse import Reused
from launchers.stage_kind import Stage, StageKind

ROOT = Path(__file__).resolve().parent.parent

LOCATED = re.compile(r"\S+\.ya?ml:\d+: ")
"""How a message begins that says where in a recipe the fault is."""

CODE = ("diagcot", "launchers", "prompts")
"""Folders that the snapshot of the code that jobs run consists of: the packages and the prompts."""


@dataclass(frozen=True)
class Chain:
    """A recipe on a cluster under the name of a run. Nothing is written before `write`."""

    recipe: Recipe
    document: Document
    cluster: Cluster
    run: str
    root: Path = ROOT
    reused: Mapping[str, Reused] = field(default_factory=dict)
    """Stages whose product another run has made."""

    @property
    def run_dir(self) -> Path:
        """Folder of the run."""
        return self._path(self.cluster.roots.logs) / self.run

    @property
    def shards_root(self) -> Path:
        """Folder of the data that stages write."""
        return self._path(self.cluster.roots.shards)

    def _path(self, path: Path) -> Path:
        return self.folder / path

    @property
    def folder(self) -> Path:
        """Where relative roots begin."""
        return roots_folder() if self.root == ROOT else self.root

    def spec(self, name: str) -> StageSpec:
        """The recipe's entry of the stage of that name."""
        return self.recipe.stages[self._numbers[name]]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        """Name -> place of each stage in the recipe, whose sweep may have thousands."""
        return {spec.name: number for number, spec in enumerate(self.recipe.stages)}

    @property
    def own(self) -> list[StageSpec]:
        """The recipe's entries of the stages that this run makes."""
        return [spec for spec in self.recipe.stages if spec.source is None]

    def kind(self, spec: StageSpec) -> StageKind[Any]:
        """What a stage's kind declares. Raises UserError with file and line if there is no such kind."""
        at = ("stages", self._numbers[spec.name], "kind")
        try:
            kind = registry.find(spec.kind)
        except UserError as error:
            raise OwnCodeError(f"{self.document.where(at)}: {error}") from error
        if kind is None:
            raise UserError(
                f"{self.document.where(at)}: unknown kind {spec.kind!r}{near(spec.kind, registry.modules())}"
            )
        return kind

    @cached_property
    def _stages(self) -> dict[str, Stage[Any]]:
        return {}

    def stage(self, name: str) -> Stage[Any]:
        """The stage of that name, its settings parsed. Raises UserError with file and line if they are wrong."""
        if name not in self._stages:
            spec = self.spec(name)
            at, model, given = (
                ("stages", self._numbers[spec.name], "settings"),
                self.kind(spec).settings,
                spec.settings,
            )
            if self.recipe.prompt_set and issubclass(model, PromptedSettings):
                given = {"prompt_set": self.recipe.prompt_set, **given}
            settings = self.document.check(model, given, at)
            if faults := [f"{self.document.where(loc)}: {said}" for loc, said in contradictions.found(settings, at)]:
                raise UserError("\n".join(faults))
            self._stages[name] = Stage(spec, settings)
        return self._stages[name]

    @property
    def stages(self) -> Iterator[tuple[StageKind[Any], Stage[Any]]]:
        """Every stage that this run makes and its kind, in order. Raises UserError as `stage` does."""
        return ((self.kind(spec), self.stage(spec.name)) for spec in self.own)

    def resources(self, name: str) -> Size:
        """The resources of a stage on this cluster."""
        return self.cluster.resources(self.kind(self.spec(name)).resource_profile, name)

    def output(self, name: str) -> Path:
        """Where a stage's product goes: weights, data, or the run's report."""
        return self.pipeline.output(name, self.kind(self.spec(name)).product)

    @cached_property
    def _units(self) -> dict[str, list[Unit]]:
        return {}

    def units_of(self, name: str) -> list[Unit]:
        """Units of a stage. Raises UserError with file and line if the stage cannot run as the recipe says."""
        if name not in self._units:
            stage = self.stage(name)
            taken = self.reused.get(name)
            try:
                self._units[name] = list(taken.plan.units) if taken else self.kind(stage.spec).units(stage, self)
            except UserError as error:
                raise UserError(self._located(stage.spec, str(error))) from error
        return self._units[name]

    def _located(self, spec: StageSpec, said: str) -> str:
        """What is wrong with a stage, with the place of the stage in its file unless it has one already."""
        if LOCATED.match(said):
            return said
        return f"{self.document.where(('stages', self._numbers[spec.name]))}: {said}"

    @property
    def code(self) -> list[Path]:
        """What the snapshot of the code that jobs run consists of: the user's prompts and rewards are among it."""
        own = own_files.of_stages(
            {"kind": stage.spec.kind, "settings": stage.settings.model_dump()} for _, stage in self.stages
        )
        return [*(self.root / name for name in CODE), *own]

    @cached_property
    def pipeline(self) -> Pipeline:
        """All stages of the recipe, declared. Raises UserError before anything is written."""
        self._check_inputs()
        pipeline = Pipeline(
            self.run,
            self.cluster,
            self.folder,
            code=self.code,
            seed=self.recipe.seed,
            about={"recipe": self.recipe.name},
            keep=self._files(),
        )
        plans: dict[str, Plan] = {}
        for name, taken in self.reused.items():
            plans[name] = pipeline.reuse(name, taken.plan, self.kind(taken.spec).product)
        for kind, stage in self.stages:
            spec = stage.spec
            counted = spec.inputs.get(kind.headline.inputs, []) if kind.headline else []
            plans[spec.name] = pipeline.stage(
                spec.name,
                kind.work,
                self.units_of(spec.name),
                kind.resource_profile,
                settings=stage.settings,
                inputs={role: [plans[name] for name in names] for role, names in spec.inputs.items()},
                after=[plans[name] for name in spec.follows],
                elementwise=[plans[name] for name in spec.inputs[spec.elementwise]] if spec.elementwise else (),
                product=kind.product,
                number=spec.number,
                startup_s=kind.startup_s,
                unit_s=spec.unit_seconds or kind.unit_s,
                former_kind=kind.former_work,
                headline_count=kind.headline.count if kind.headline else "",
                headline_stages=[plans[name] for name in counted],
                grows=kind.grows,
                selector_settings=kind.selector_settings,
                seed=spec.seed,
            )
        return pipeline

    def _check_inputs(self) -> None:
        """Raises UserError with file and line for stages that read what another one does not make."""
        faults = [
            f"{self.document.where(('stages', self._numbers[spec.name], 'inputs', role))}: {said}"
            for spec in self.own
            for role, said in inputs.wrong(spec, self.kind(spec), lambda name: self.spec(name).kind)
        ]
        if faults:
            raise UserError("\n".join(faults))

    def _files(self) -> dict[str, str]:
        files = {"recipe.yaml": self.document.text, "estimates.json": json.dumps(self.estimates(), indent=1) + "\n"}
        if self.reused:
            records = {name: taken.record() for name, taken in self.reused.items()}
            files[REUSED_FILE] = json.dumps(records, indent=1) + "\n"
        return files

    @property
    def plans(self) -> list[Plan]:
        """The plan of every stage, in order. Raises UserError before anything is written."""
        return self.pipeline.plans

    def checks(self) -> None:
        """What the stages need from this machine. Raises one UserError that lists what is missing."""
        faults: dict[str, None] = {}
        said: dict[str, StageSpec] = {}
        try:
            reuse.require_unchanged(self.run_dir, self.reused)
        except UserError as error:
            faults[str(error)] = None
        for spec in self.own:
            try:
                self.check(spec.name)
            except UserError as error:
                said.setdefault(str(error), spec)  # stages that lack the same are told once
        faults |= dict.fromkeys(self._located(spec, text) for text, spec in said.items())
        faults |= dict.fromkeys(self._trained_on_test())
        if faults:
            raise UserError("\n".join(faults))

    def check(self, name: str) -> None:
        """What one stage needs from this machine. Raises UserError if its settings are wrong or something is missing."""
        stage = self.stage(name)
        if check := self.kind(stage.spec).check:
            check(stage, self)

    def _trained_on_test(self) -> Iterator[str]:
        """What is wrong with stages that make weights from data of the test split, which evaluation alone may read."""
        known: dict[str, set[str]] = {}

        def sources(spec: StageSpec) -> set[str]:
            """The data stages of the test split that a stage was made from."""
            if spec.name not in known:
                own = {spec.name} if spec.settings.get("split") == "test" else set()
                known[spec.name] = own.union(*(sources(self.spec(name)) for name in spec.follows))
            return known[spec.name]

        for spec in self.own:
            if sources(spec) and self.kind(spec).product == "weights":
                where = self.document.where(("stages", self._numbers[spec.name], "inputs"))
                names = ", ".join(sorted(sources(spec)))
                yield (
                    f"{where}: stage {spec.name} trains on {names}, whose split is test: a model trained"
                    " or chosen on the test split has no honest score; use train or validate"
                )

    def notes(self) -> list[str]:
        """What is worth knowing about the stages before they run."""
        return [line for kind, stage in self.stages if kind.notes for line in kind.notes(stage, self)]

    def obtain(self) -> None:
        """Fetch what the stages read and a package index carries."""
        for kind, stage in self.stages:
            if kind.obtain:
                kind.obtain(stage, self)

    def storage(self) -> dict[str, int | None]:
        """Stage -> bytes of its product; None if that is not known."""
        sizes: dict[str, int | None] = dict.fromkeys(spec.name for spec in self.own)
        for spec in self.own:
            with contextlib.suppress(UserError):  # `checks` reports it
                kind, stage = self.kind(spec), self.stage(spec.name)
                sizes[spec.name] = kind.storage(stage, self) if kind.storage else None
        return sizes

    def work_storage(self) -> dict[str, int]:
        """Stage -> bytes that it needs besides its product until it is done, where it needs some."""
        sizes: dict[str, int] = {}
        for spec in self.own:
            with contextlib.suppress(UserError):  # as with `storage`
                kind, stage = self.kind(spec), self.stage(spec.name)
                if kind.work_storage and (size := kind.work_storage(stage, self)):
                    sizes[spec.name] = size
        return sizes

    def estimates(self) -> dict[str, dict[str, Any]]:
        """Stage -> memory and GPU-hours; stages for which they are not known are left out."""
        known: dict[str, dict[str, Any]] = {}
        for spec in self.own:
            with contextlib.suppress(UserError):  # as with `storage`
                kind, stage = self.kind(spec), self.stage(spec.name)
                if kind.estimate and (estimate := kind.estimate(stage, self)):
                    known[spec.name] = estimate.to_json()
        return known

    def selected(self, number: str) -> set[str]:
        """Names of the stages of `number`, or of all of them."""
        names = {spec.name for spec in self.own if number in ("all", spec.number)}
        if not names:
            numbers = dict.fromkeys(spec.number for spec in self.own)
            raise UserError(f"recipe {self.recipe.name} has no stage {number!r}; it has {', '.join(numbers)}")
        return names

    def write(self) -> list[Plan]:
        """Create the run's folder and plans, or check that they say the same. Returns the plans of the run."""
        self.pipeline.about.setdefault("commit", code.commit(self.root))
        return self.pipeline.write()

    def submit(self, number: str) -> list[Submitted]:
        """Write the plans and submit the stages of `number`; on a laptop, start the runner."""
        selected = self.selected(number)
        self.checks()
        roots = self.cluster.roots
        require_writable([self._path(root) for root in (roots.logs, roots.shards, roots.models)])
        self.pipeline.about.setdefault("commit", code.commit(self.root))
        return self.pipeline.submit(selected)


def settings_model(name: str) -> tuple[str, type[Settings]] | None:
    """The present name of a kind and its settings model; None if there is no such kind."""
    name = registry.RENAMED.get(name, name)
    try:
        kind = registry.find(name)
    except UserError:  # told with its place when the stage is planned
        return None
    return (name, kind.settings) if kind else None


def open_chain(recipe: str, cluster: str, run: str | None, root: Path = ROOT, seed: int | None = None) -> Chain:
    """The chain of a recipe on a cluster. Raises UserError for anything a person may have mistyped.

    run: None names it after the recipe, and after the seed where one is given. seed: in place of the recipe's.
    """
    found_recipe, document = find_recipe(recipe, root, settings_model, seed)
    return chain_on(found_recipe, document, cluster, run or seeded_name(found_recipe.name, seed), root)


def chain_on(recipe: Recipe, document: Document, cluster: str, run: str | None, root: Path = ROOT) -> Chain:
    """The chain of a recipe that was read or composed. Raises UserError as `open_chain`. run: None names it likewise."""
    run = run or recipe.name
    check_name(run)
    on_cluster = find_cluster(cluster, root)
    on_cluster.enter()
    chain = Chain(recipe, document, on_cluster, run, root)
    return _with_reused(chain) if len(chain.own) < len(recipe.stages) else chain


def _with_reused(chain: Chain) -> Chain:
    """The chain with the stages of other runs that it names, and, after its own, those that they were made from."""
    reused: dict[str, Reused] = {}
    stages: list[StageSpec] = []
    ancestors: dict[str, StageSpec] = {}
    for index, own in enumerate(chain.recipe.stages):
        spec = own
        if spec.source:
            try:
                found = reuse.find(spec.name, spec.source, chain.run_dir.parent, chain.root, settings_model)
            except UserError as error:
                raise UserError(f"{chain.document.where(('stages', index, 'from'))}: {error}") from error
            reused[spec.name], spec = found, found.spec
            ancestors |= {one.name: one for one in found.ancestors}
        stages.append(spec)
    recipe = chain.recipe.model_copy(update={"stages": [*stages, *ancestors.values()]})
    return replace(chain, recipe=recipe, reused=reused)


def roots_folder() -> Path:
    """Where relative roots begin: the project, or, if a command is typed outside it, the folder where that is done."""
    here = Path.cwd()
    return ROOT if here.is_relative_to(ROOT) else here


def seeded_name(name: str, seed: int | None) -> str:
    """The name of a run of that seed; None is the recipe's own."""
    return name if seed is None else f"{name}-{seed}"


def require_writable(folders: Iterable[Path]) -> None:
    """Raise UserError if a few kB cannot be written to each folder, or to the place where it will be made.

    A job would find out hours later. Permission bits do not show quotas, squashed roots and full disks.
    """
    for folder in folders:
        place = next(path for path in (folder, *folder.parents) if path.exists())
        try:
            with tempfile.TemporaryFile(dir=place, buffering=0) as probe:
                probe.write(b"\0" * 4096)
        except OSError as error:
            raise UserError(
                f"{place} cannot be written ({error.strerror}), and the jobs would write to {folder}: nothing was "
                "submitted. Fix it, or change `roots` in the cluster file"
            ) from error
