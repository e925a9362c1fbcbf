"""Composes an ablation study: one recipe from a recipe, its arms and several seeds, in which equal stages occur once."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from diagcot.evaluation.scores.columns import COLUMNS
from diagcot.evaluation.settings import Claim, EvaluateSettings
from diagcot.jobs import UserError
from diagcot.jobs.names import near
from diagcot.jobs.settings import Document, Loc
from diagcot.recipe import Recipe, StageSpec
from diagcot.recipe import find as find_recipe
from diagcot.tasks.prompt_set import PromptedSettings
from launchers.chain import settings_model

TASKS = {column.name: column.task for column in COLUMNS}


class Composition(Document):
    """The recipe of a study. Faults are reported where they stand: in the study's recipe or in an arm."""

    def __init__(self, path: Path, value: Any, sources: Sequence[tuple[Document, int]]) -> None:
        self.path, self.value, self._sources = path, value, sources
        self.text = "# Composed by `diagcot study`\n" + yaml.safe_dump(value, sort_keys=False)

    def where(self, loc: Loc) -> str:
        """`file:line` of what the composed stage was made from."""
        if len(loc) > 1 and loc[0] == "stages" and isinstance(loc[1], int) and loc[1] < len(self._sources):
            document, index = self._sources[loc[1]]
            return document.where(("stages", index, *loc[2:]))
        return str(self.path)


class Arm:
    """A recipe of the study: the study's own (with no name), or one that changes it."""

    def __init__(self, name: str, recipe: Recipe, document: Document) -> None:
        self.name, self.recipe, self.document = name, recipe, document
        self.claims = [document.check(Claim, row, ("claims", i)) for i, row in enumerate(recipe.claims)]

    def called(self, stage: str) -> str:
        """The name of one of its stages in the study, but for the seed."""
        return f"{stage}-{self.name}" if self.name else stage


class SeedOf:
    """The stages of one seed. Stages that do the same with the same inputs are one, whichever arm they are from.

    A stage whose recipe gives it a seed of its own, and whose inputs have theirs too, is the same for every seed.
    """

    def __init__(self, arms: Sequence[Arm], seed: int) -> None:
        self.seed = seed
        self._fixed: set[str] = set()  # names of stages that are the same for every seed
        self.stages: dict[str, dict[str, Any]] = {}  # name in the study -> the stage
        self.sources: dict[str, tuple[Document, int]] = {}
        self.names: dict[str, str] = {}  # <stage> or <stage>-<arm> -> name in the study, but for the seed
        self._equal: dict[str, str] = {}
        for arm in arms:
            for index, spec in enumerate(arm.recipe.stages):
                if spec.number != "eval":
                    self._add(arm, index, spec)

    def _add(self, arm: Arm, index: int, spec: StageSpec) -> None:
        stage = self._stage(arm, spec, spec.inputs)
        name = self._equal.setdefault(json.dumps(stage, sort_keys=True), arm.called(spec.name))
        self.names[arm.called(spec.name)] = name
        if name == arm.called(spec.name):
            if spec.source or (
                spec.seed is not None and all(self.names[arm.called(n)] in self._fixed for n in spec.follows)
            ):
                self._fixed.add(name)
            self.stages[self.seeded(name)] = {"name": self.seeded(name), **stage}
            self.sources[self.seeded(name)] = arm.document, index

    def seeded(self, name: str) -> str:
        """The name in the study of a stage of this seed."""
        return name if name in self._fixed else f"{name}-{self.seed}"

    def _stage(self, arm: Arm, spec: StageSpec, inputs: dict[str, list[str]]) -> dict[str, Any]:
        row = spec.model_dump(exclude_unset=True, exclude={"name", "inputs"})
        if spec.source:
            return row
        kind = settings_model(spec.kind)
        if arm.recipe.prompt_set and kind and issubclass(kind[1], PromptedSettings):
            row["settings"] = {"prompt_set": arm.recipe.prompt_set, **spec.settings}
        read = {role: [self.seeded(self.names[arm.called(n)]) for n in names] for role, names in inputs.items()}
        return row | {"inputs": read, "seed": self.seed if spec.seed is None else spec.seed}

    def evaluations(self, arms: Sequence[Arm], claims: Sequence[tuple[str, Claim]]) -> Iterator[str]:
        """Add the evaluation of the models that claims name, on the tasks that decide; yields the names of its stages.

        claims: each after its `file:line`. Raises UserError if the recipes evaluate no model on such a task.
        """
        wanted: dict[str, set[str]] = {}  # model -> tasks
        for _, claim in claims:
            for model in (claim.better, claim.than):
                wanted.setdefault(model, set()).add(TASKS[claim.column])
        known: set[str] = set()
        for arm in arms:
            for index, spec in enumerate(arm.recipe.stages):
                if "models" not in spec.inputs:
                    continue
                asked = tasks_of(spec)
                known |= asked
                own = [name for name in self.brought(arm) if asked & wanted.get(name, set())]
                if own:
                    yield self.evaluate(arm, index, spec, own)
        for place, claim in claims:
            if (task := TASKS[claim.column]) not in known:
                raise UserError(
                    f"{place}: {claim.column} needs answers to {task}, which no stage of the study evaluates"
                )

    def brought(self, arm: Arm) -> Iterable[str]:
        """The stages that the arm brings, as claims name them."""
        return (
            self.names[name]
            for name in map(arm.called, (s.name for s in arm.recipe.stages))
            if self.names.get(name) == name
        )

    def evaluate(self, arm: Arm, index: int, spec: StageSpec, models: Sequence[str]) -> str:
        """Add models to the evaluation that an arm's stage describes; returns the name of its stage."""
        others = {role: names for role, names in spec.inputs.items() if role != "models"}
        stage = self._stage(arm, spec, others)
        name = f"{self._equal.setdefault(json.dumps(stage, sort_keys=True), arm.called(spec.name))}-{self.seed}"
        if name not in self.stages:
            stage["inputs"] = {"models": [], **stage["inputs"]}
            self.stages[name] = {"name": name, **stage}
            self.sources[name] = arm.document, index
        self.stages[name]["inputs"]["models"] += [self.seeded(model) for model in models]
        return name


def compose(half: str, seeds: Sequence[int], root: Path) -> tuple[Recipe, Document]:
    """The recipe of the study `recipes/study/<half>.yaml` with all arms in `recipes/study/<half>/`, on these seeds.

    Raises UserError for anything a person may have mistyped.
    """
    folder = root / "recipes" / "study"
    halves = sorted(path.stem for path in folder.glob("*.yaml"))
    if half not in halves:
        raise UserError(f"there is no study {half!r}{near(half, halves)}")
    names = ["", *sorted(path.stem for path in (folder / half).glob("*.yaml"))]
    arms = [
        Arm(name, *find_recipe(f"study/{half}/{name}" if name else f"study/{half}", root, settings_model))
        for name in names
    ]
    stages: list[dict[str, Any]] = []
    sources: list[tuple[Document, int]] = []
    predictions: list[str] = []
    claims: list[tuple[str, Claim]] = []
    for seed in seeds:
        part = SeedOf(arms, seed)
        claims = [
            (arm.document.where(("claims", at)), _resolved(arm, at, claim, part.names))
            for arm in arms
            for at, claim in enumerate(arm.claims)
        ]
        evaluations = list(dict.fromkeys(part.evaluations(arms, claims)))
        predictions += evaluations
        needed = ancestors(part.stages, evaluations)
        stages += [stage for name, stage in part.stages.items() if name in needed]
        sources += [part.sources[name] for name in part.stages if name in needed]
    settings = {"claims": [claim.model_dump() for _, claim in claims], "seeds": list(seeds)}
    study = {"name": "study", "kind": "study", "number": "eval", "inputs": {"predictions": predictions}}
    value = {"name": f"study-{half}", "seed": seeds[0], "stages": [*stages, study | {"settings": settings}]}
    document = Composition(arms[0].document.path, value, sources)
    return document.check(Recipe, value), document


def check_claims(recipe: Recipe, document: Document, root: Path) -> None:
    """Raises UserError with file and line for a claim of a recipe that its study would refuse.

    recipe: a study's own, in recipes/study/, or an arm in the folder of one. Claims of any other recipe belong to no study.
    """
    if not recipe.claims:
        return
    folder, path = (root / "recipes" / "study").resolve(), document.path.resolve()
    if folder not in (path.parent, path.parent.parent):
        raise UserError(
            f"{document.where(('claims',))}: no study has these claims: `make study` reads recipes/study/<half>.yaml and its arms"
            " in recipes/study/<half>/. Move the recipe there, or leave them out"
        )
    compose(path.stem if path.parent == folder else path.parent.name, (recipe.seed,), root)


def tasks_of(spec: StageSpec) -> set[str]:
    """The tasks that a stage evaluates models on."""
    if spec.kind != "evaluate":
        return {spec.kind}
    return set(spec.settings.get("tasks") or EvaluateSettings.model_fields["tasks"].default)


def _resolved(arm: Arm, place: int, claim: Claim, names: dict[str, str]) -> Claim:
    """The claim with the names that its models have in the study."""
    for key, known in (("column", TASKS), ("better", names), ("than", names)):
        if getattr(claim, key) not in known:
            raise UserError(
                f"{arm.document.where(('claims', place, key))}: the study has no {'score' if key == 'column' else 'model'}"
                f" {getattr(claim, key)!r}{near(getattr(claim, key), known)}"
            )
    better, than = names[claim.better], names[claim.than]
    if better == than:
        raise UserError(
            f"{arm.document.where(('claims', place, 'than'))}: {claim.better} and {claim.than} are one model: the arm changes"
            " nothing that it is made from"
        )
    return claim.model_copy(update={"better": better, "than": than})


def ancestors(stages: dict[str, dict[str, Any]], names: Iterable[str]) -> set[str]:
    """The stages of these names and all that they read."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += [source for read in stages[name].get("inputs", {}).values() for source in read]
    return found
