"""Composes a sweep: one recipe of a recipe, values of its settings and several seeds, in which equal stages occur once."""

import contextlib
import itertools
import json
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from diagcot.evaluation.settings import OwnMetric, SweepRow
from diagcot.jobs import UserError
from diagcot.jobs.environment import yaml_text
from diagcot.jobs.names import near
from diagcot.jobs.settings import Document
from diagcot.recipe import Recipe, merged
from diagcot.recipe import find as find_recipe
from launchers.chain import settings_model
from launchers.composition import Arm, Composition, SeedOf, ancestors, tasks_of

EXAMPLE = "grpo.deepspeed.learning_rate=1e-4,5e-4"


def compose(name: str, over: Sequence[str], seeds: Sequence[int], root: Path) -> tuple[Recipe, Document]:
    """The recipe that trains and evaluates recipe `name` with every combination of values, on every seed.

    over: such as `grpo.deepspeed.learning_rate=1e-4,5e-4`: a stage, a key of its settings, and values.
    Raises UserError for anything a person may have mistyped.
    """
    recipe, document = find_recipe(name, root, settings_model)
    axes = [_axis(text, recipe) for text in over]
    _require_different([(stage, *keys) for stage, keys, _ in axes])
    arms = [Arm("", recipe, document)]
    labels: dict[str, str] = {}  # name of an arm -> its values, for people
    for values in itertools.product(*([(stage, keys, value) for value in given] for stage, keys, given in axes)):
        label = ", ".join(f"{keys[-1]} {_shown(value)}" for _, keys, value in values)
        arm = plain = re.sub(r"[^A-Za-z0-9_.]+", "-", label).strip("-.")
        for number in itertools.count(2):  # such as of 1 and -1
            if arm not in labels:
                break
            arm = f"{plain}-{number}"
        labels[arm] = label
        arms.append(Arm(arm, *_changed(document, values)))
    stages: dict[str, dict[str, Any]] = {}
    sources: dict[str, tuple[Document, int]] = {}
    rows: dict[tuple[str, str], dict[int, str]] = {}  # model of the recipe, arm -> seed -> evaluated stage
    predictions: list[str] = []
    tasks: dict[str, None] = {}
    for seed in seeds:
        part = SeedOf(arms, seed)
        evaluations: list[str] = []
        wanted: set[str] = set()
        for model, arm, stage in _models(part, recipe, labels):
            rows.setdefault((model, arm), {})[seed] = part.seeded(stage)
            wanted.add(stage)
        if not rows:
            raise UserError(
                "no evaluated model depends on these settings: sweep a setting of a stage that a model comes from"
            )
        for index, spec in enumerate(recipe.stages):
            evaluated = [part.names[f"{model}-{arm}"] for model in spec.inputs.get("models", ()) for arm in labels]
            own = [name for name in dict.fromkeys(evaluated) if name in wanted]
            if own:
                evaluations.append(part.evaluate(arms[0], index, spec, own))
                tasks |= dict.fromkeys(sorted(tasks_of(spec)))
        evaluations = list(dict.fromkeys(evaluations))
        predictions += [one for one in evaluations if one not in predictions]
        needed = ancestors(part.stages, evaluations)
        stages |= {name: stage for name, stage in part.stages.items() if name in needed}
        sources |= {name: part.sources[name] for name in part.stages if name in needed}
    settings = {
        "seeds": list(seeds),
        "tasks": list(tasks),
        "metrics": _own_metrics(recipe, tasks),
        "rows": [
            SweepRow(model=model, values=labels[arm], stages=list(at.values())).model_dump()
            for (model, arm), at in rows.items()
        ],
    }
    table = {"name": "sweep", "kind": "sweep", "number": "eval", "inputs": {"predictions": predictions}}
    value = {
        "name": f"sweep-{recipe.name}",
        "seed": seeds[0],
        "stages": [*stages.values(), table | {"settings": settings}],
    }
    composition = Composition(document.path, value, list(sources.values()))
    return composition.check(Recipe, value), composition


def _own_metrics(recipe: Recipe, tasks: Collection[str]) -> list[dict[str, Any]]:
    """The metrics of the user's own in the tables of the recipe, of the tasks of the sweep."""
    named = [row for spec in recipe.stages if spec.kind == "aggregate" for row in spec.settings.get("metrics", [])]
    default = OwnMetric.model_fields["task"].default
    asked = [row for row in named if not isinstance(row, dict) or row.get("task", default) in tasks]
    return [row for place, row in enumerate(asked) if row not in asked[:place]]


def _axis(text: str, recipe: Recipe) -> tuple[str, list[str], list[Any]]:
    """Stage, keys and values of an option such as `grpo.deepspeed.learning_rate=1e-4,5e-4`."""
    path, equals, listed = text.partition("=")
    names = [spec.name for spec in recipe.stages if path.startswith(f"{spec.name}.")]
    if not names:
        stages = [spec.name for spec in recipe.stages]
        raise UserError(
            f"{text!r} names no stage of recipe {recipe.name}{near(path.split('.')[0], stages)}; e.g. {EXAMPLE}"
        )
    stage = max(names, key=len)
    keys = path[len(stage) + 1 :].split(".")
    try:
        _, values = yaml_text.read(f"[{listed}]", repr(text))
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError):
        values = []
    if not equals or not values or not all(keys):
        raise UserError(f"{text!r} must be a stage, a key of its settings and values, such as {EXAMPLE}")
    if len(set(map(_plain, values))) < len(values):
        raise UserError(f"{text!r} gives a value twice: leave one out")
    if next(spec for spec in recipe.stages if spec.name == stage).number == "eval":
        raise UserError(
            f"{text!r}: all models of a sweep are evaluated alike; change stage {stage} in the recipe instead"
        )
    return stage, keys, values


def _plain(value: Any) -> str:
    """A value as it is compared: 1, 1.0 and "1" are one, and so are 0.0001 and 1e-4, which is a text in YAML."""
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            return repr(float(value))
    return json.dumps(value, sort_keys=True, default=str)


def _require_different(settings: Sequence[tuple[str, ...]]) -> None:
    """Raise UserError if two options change one setting, or one a setting inside the other's."""
    for place, one in enumerate(settings):
        for other in settings[:place]:
            if all(a == b for a, b in zip(one, other, strict=False)):
                both = " and ".join(dict.fromkeys(map(".".join, (other, one))))
                raise UserError(
                    f"{both}: two options change one setting; give all its values in one, such as {EXAMPLE}"
                )


def _changed(document: Document, values: Sequence[tuple[str, list[str], Any]]) -> tuple[Recipe, Document]:
    """The recipe with these settings in place of its own."""
    stages = list(document.value["stages"])
    for stage, keys, value in values:
        change: Any = value
        for key in reversed(keys):
            change = {key: change}
        index = next(i for i, one in enumerate(stages) if one["name"] == stage)
        stages[index] = merged(stages[index], {"settings": change})
    return document.check(Recipe, {**document.value, "stages": stages}), document


def _models(part: SeedOf, recipe: Recipe, labels: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """(model of the recipe, arm, its stage but for the seed) of every evaluated model that depends on the values."""
    for model in dict.fromkeys(name for spec in recipe.stages for name in spec.inputs.get("models", ())):
        found = {arm: part.names[f"{model}-{arm}"] for arm in labels}
        if len(labels) == 1 or len(set(found.values())) > 1:
            yield from ((model, arm, name) for arm, name in found.items())


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
