"""Recipes: what to train, as a list of stages. Science only; what belongs to a cluster is in slurm/clusters/."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import ConfigDict, Field, field_validator, model_validator

from diagcot.jobs import UserError
from diagcot.jobs.names import check_name, check_stage, near
from diagcot.jobs.settings import MOST_SEED, Document, Loc, LocatedError, Settings

__all__ = ["Extension", "Recipe", "Settings", "StageSpec", "find", "merged"]

NUMBERS = ("0", "1", "2", "3", "eval")
"""What `number` of a stage may be."""


class StageSpec(Settings):
    """One stage of a chain. Its inputs are its edges; `elementwise` names the input that it follows unit by unit."""

    renamed: ClassVar[Mapping[str, str]] = {"stage": "number", "each": "elementwise"}

    model_config = ConfigDict(validate_by_alias=True, validate_by_name=False, serialize_by_alias=True)

    name: str = Field(description="Name of the stage, unique in the recipe; also the name of its folder in the run.")
    kind: str = Field(
        "", description="What the stage does: a kind that launchers/ declares, or path/to/file.py:KIND of your own."
    )
    number: str = Field("", description="Which `make submit-stageN` submits it: 0, 1, 2, 3 or eval.")
    source: str | None = Field(
        None,
        alias="from",
        description="Finished stage of another run, as `run/stage`, whose product takes the place of this stage's: nothing"
        " is run or copied. Such a stage has only a name besides.",
    )
    inputs: dict[str, list[str]] = Field(
        {}, description="Role of an input, such as `shards` or `model`, and the earlier stages that provide it."
    )
    elementwise: str | None = Field(
        None,
        description="Role whose stages are followed unit by unit: unit k starts as soon as unit k of them is done.",
    )
    settings: dict[str, Any] = Field({}, description="Settings of the kind, see kinds.md.")
    unit_seconds: float | None = Field(
        None, gt=0, description="Expected seconds for one unit; replaces the kind's own value and decides the packing."
    )
    seed: int | None = Field(
        None, ge=0, le=MOST_SEED, description="Seed of the stage's random choices; null is the recipe's."
    )

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        try:
            check_stage(value)
        except UserError as error:
            raise ValueError(str(error)) from error
        return value

    @field_validator("number", mode="before")
    @classmethod
    def _text(cls, value: Any) -> str:
        if str(value) not in NUMBERS:
            raise ValueError(f"must be one of {', '.join(NUMBERS)}, is {value!r}")
        return str(value)

    @field_validator("inputs", mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        return {k: [v] if isinstance(v, str) else v for k, v in value.items()} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _made_or_taken(self) -> "StageSpec":
        if self.source is None:
            for name in ("kind", "number"):
                if not getattr(self, name):
                    raise ValueError(f"{name} is missing")
            return self
        if others := sorted(self.model_fields_set - {"name", "source"}):
            raise LocatedError(f"`from` takes the product of another run, so `{others[0]}` has no effect", (others[0],))
        run, _, stage = self.source.partition("/")
        try:
            check_name(run)
            check_stage(stage)
        except UserError as error:
            raise LocatedError(f"from must be run/stage, is {self.source!r}", ("from",)) from error
        return self

    @property
    def follows(self) -> list[str]:
        """Names of all stages that it reads, each once."""
        return list(dict.fromkeys(name for names in self.inputs.values() for name in names))


class Recipe(Settings):
    """A chain of stages in the order in which they may run."""

    name: str = Field(description="Name of the recipe, and of its run unless RUN= names another.")
    seed: int = Field(0, ge=0, le=MOST_SEED, description="Seed of every random choice of the chain.")
    prompt_set: str | None = Field(
        None,
        description="What models are asked, for every stage that does not name a set of its own (docs/prompts.md).",
    )
    stages: list[StageSpec] = Field(description="The stages, each after those it reads.")
    claims: list[dict[str, Any]] = Field(
        [], description="What a study tests by this recipe's models: claims of the kind `study`, see kinds.md."
    )

    @model_validator(mode="after")
    def _edges(self) -> "Recipe":
        known: set[str] = set()
        for index, spec in enumerate(self.stages):
            if spec.name in known:
                raise LocatedError(f"two stages are named {spec.name!r}", ("stages", index, "name"))
            for role, names in spec.inputs.items():
                for name in names:
                    if name not in known:
                        raise LocatedError(
                            f"stage {spec.name!r} reads {name!r}, which is not an earlier stage{near(name, known)}",
                            ("stages", index, "inputs", role),
                        )
            if spec.elementwise is not None and spec.elementwise not in spec.inputs:
                raise LocatedError(
                    f"stage {spec.name!r}: elementwise: {spec.elementwise!r} is not one of its inputs"
                    f"{near(spec.elementwise, spec.inputs)}",
                    ("stages", index, "elementwise"),
                )
            known.add(spec.name)
        return self


class Change(Settings):
    """What a recipe changes of a stage. Mappings are merged key by key, anything else is replaced."""

    model_config = ConfigDict(validate_by_alias=True, validate_by_name=False, serialize_by_alias=True)

    inputs: dict[str, str | list[str]] = Field(
        {}, description="Roles whose stages are replaced; an empty list takes a role away."
    )
    settings: dict[str, Any] = Field({}, description="Settings that are added or replaced, key by key.")
    unit_seconds: float | None = Field(None, gt=0, description="Expected seconds for one unit.")
    seed: int | None = Field(
        None, ge=0, le=MOST_SEED, description="Seed of the stage's random choices; null is the recipe's."
    )
    source: str | None = Field(
        None, alias="from", description="Finished stage of another run, as `run/stage`, that takes the stage's place."
    )


class Extension(Settings):
    """A recipe that is another one with changes, such as an ablation."""

    name: str = Field(description="Name of the recipe, and of its run unless RUN= names another.")
    extends: str = Field(
        description="The recipe it starts from: a name in recipes/, or a path from this file's folder."
    )
    seed: int | None = Field(
        None, ge=0, le=MOST_SEED, description="Seed of every random choice; null keeps that of the base recipe."
    )
    prompt_set: str | None = Field(None, description="The prompts of every stage; null keeps those of the base recipe.")
    drop: list[str] = Field(
        [], description="Stages of the base recipe that are left out; they are also removed from the inputs of others."
    )
    change: dict[str, Change] = Field({}, description="Name of a stage of the base recipe and what is different in it.")
    add: list[dict[str, Any]] = Field(
        [], description="Further stages, as in a recipe. Each is put after the last one that it reads."
    )
    claims: list[dict[str, Any]] = Field(
        [], description="What a study tests by this recipe's models; those of the base recipe are not taken over."
    )


KindOf = Callable[[str], tuple[str, type[Settings]] | None]
"""Name of a kind in a recipe -> its present name and its settings model; None if there is no such kind."""


class Extended(Document):
    """A recipe on top of the one it extends. Its value and text are the whole recipe; faults are reported where they stand."""

    def __init__(self, path: Path, base: Document, kind_of: KindOf) -> None:
        super().__init__(path)
        self.anchor("prompt_set")
        self._rename_keys(base, kind_of)
        extension = self.check(Extension, self.value)
        self._base = base
        known = [str(stage["name"]) for stage in base.value["stages"]]
        named: list[tuple[Loc, str]] = [(("drop", i), name) for i, name in enumerate(extension.drop)]
        for at, name in [*named, *((("change", name), name) for name in extension.change)]:
            if name not in known:
                raise UserError(f"{super().where(at)}: {base.path.name} has no stage {name!r}{near(name, known)}")
        self._origins: list[tuple[str, int]] = []  # of each stage: ("stages", i) of the base recipe, or ("add", i)
        kept: list[dict[str, Any]] = []
        for number, stage in enumerate(base.value["stages"]):
            if known[number] not in extension.drop:
                kept.append(self._changed(stage, extension))
                self._origins.append(("stages", number))
        for number, given in enumerate(extension.add):
            self._insert(kept, given, number)
        self._names = [str(stage["name"]) for stage in kept]
        whole = {
            "name": extension.name,
            "seed": base.value.get("seed", 0) if extension.seed is None else extension.seed,
        }
        if prompt_set := extension.prompt_set or base.value.get("prompt_set"):
            whole["prompt_set"] = prompt_set
        claims = {"claims": extension.claims} if extension.claims else {}
        self.value = whole | {"stages": kept} | claims
        self.text = f"# {extension.name}: {extension.extends} with changes\n" + yaml.safe_dump(
            self.value, sort_keys=False
        )

    def _rename_keys(self, base: Document, kind_of: KindOf) -> None:
        self.rename(Extension)
        added = self.value.get("add") or ()
        parts: list[tuple[Loc, Any]] = [(("change", str(stage.get("name"))), stage) for stage in base.value["stages"]]
        parts += [(("add", number), stage) for number, stage in enumerate(added) if isinstance(stage, dict)]
        for at, stage in parts:
            if (kind := kind_of(str(stage.get("kind")))) is not None:
                self.rename(kind[1], (*at, "settings"))

    def _changed(self, stage: dict[str, Any], extension: Extension) -> dict[str, Any]:
        name = str(stage["name"])
        change = extension.change.get(name, Change()).model_dump(exclude_unset=True)
        stage = {"name": name, **change} if "from" in change else merged(stage, change)
        return stage | self._inputs(stage, extension.drop)

    def _insert(self, kept: list[dict[str, Any]], given: dict[str, Any], number: int) -> None:
        self.check(StageSpec, given, ("add", number))
        names = [str(stage["name"]) for stage in kept]
        if (name := str(given["name"])) in names:
            raise UserError(
                f"{super().where(('add', number))}: {self._base.path.name} has a stage {name!r}: `change` it"
            )
        at = max((names.index(read) + 1 for read in _read(given) if read in names), default=0)
        while at < len(kept) and self._origins[at][0] == "add":  # those that were added before it
            at += 1
        kept.insert(at, dict(given))
        self._origins.insert(at, ("add", number))

    def _inputs(self, stage: dict[str, Any], dropped: list[str]) -> dict[str, dict[str, list[str]]]:
        inputs = {}
        for role, names in (stage.get("inputs") or {}).items():
            listed = [names] if isinstance(names, str) else names
            if not listed:  # a change takes the role away
                continue
            inputs[role] = [name for name in listed if name not in dropped]
            if not inputs[role]:
                where = super().where(("drop", dropped.index(listed[0])))
                raise UserError(
                    f"{where}: stage {stage['name']!r} reads {listed[0]!r} as {role} and nothing else: say what it reads"
                    f" instead, as change: {{{stage['name']}: {{inputs: {{{role}: …}}}}}}"
                )
        return {"inputs": inputs} if stage.get("inputs") else {}

    def where(self, loc: Loc) -> str:
        if len(loc) < 2 or loc[0] != "stages" or not isinstance(loc[1], int):
            return super().where(loc)
        if loc[1] >= len(self._origins):  # a stage that another run's product was made from
            return super().where(())
        origin = self._origins[loc[1]]
        if origin[0] == "add":
            return super().where((*origin, *loc[2:]))
        own = ("change", self._names[loc[1]], *loc[2:])
        there = (*origin, *loc[2:])
        depth = self.find(own)[1]  # beyond the stage's settings: the part that lacks a key may be this recipe's own
        # A fault of the whole stage is shown where it was changed last.
        if depth == len(own) or (len(own) > 2 and depth > max(3, self._base.find(there)[1])):
            return super().where(own)
        return self._base.where(there)


def _read(stage: dict[str, Any]) -> list[str]:
    """Names of the stages that a stage reads."""
    listed = [[names] if isinstance(names, str) else names for names in (stage.get("inputs") or {}).values()]
    return [name for names in listed for name in names]


def merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """`base` with a change: mappings are merged key by key, anything else is replaced. Neither is altered."""
    both = {
        name: merged(base[name], value) if isinstance(value, dict) and isinstance(base.get(name), dict) else value
        for name, value in change.items()
    }
    return base | both


def find(name: str, root: Path, kind_of: KindOf, seed: int | None = None) -> tuple[Recipe, Document]:
    """The recipe `name` of recipes/, or that of a YAML file, with the document that knows its lines.

    seed: in place of the recipe's. Warns on stderr about old keys and kinds.
    Raises UserError if there is no such recipe or its stages are wrong.
    """
    folder = root / "recipes"
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.exists():
        known = [str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.yaml")]
        if path == Path(name):
            close = near(path.stem, known)
            raise UserError(f"there is no recipe file {path}{close if close.startswith('; did') else ''}")
        raise UserError(f"unknown recipe {name!r}: it is not a file in {folder.relative_to(root)}/{near(name, known)}")
    document = _document(path, folder, kind_of)
    if seed is not None and isinstance(document.value, dict):
        document.value = document.value | {"seed": seed}
        document.text = f"# {name} with seed {seed}\n" + yaml.safe_dump(document.value, sort_keys=False)
    return document.check(Recipe, document.value or {}), document


def _document(path: Path, folder: Path, kind_of: KindOf, above: tuple[Path, ...] = ()) -> Document:
    document = Document(path)
    document.anchor("prompt_set")
    if not isinstance(document.value, dict) or "extends" not in document.value:
        _rename_stages(document, kind_of)
        return document
    name = str(document.value["extends"])
    base = path.parent / name if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not base.is_file() or base.resolve() in (*above, path.resolve()):
        why = "extends itself" if base.is_file() else f"extends {name!r}, and there is no {base}"
        raise UserError(f"{document.where(('extends',))}: {why}")
    below = _document(base, folder, kind_of, (*above, path.resolve()))
    below.check(Recipe, below.value or {})
    return Extended(path, below, kind_of)


def _rename_stages(document: Document, kind_of: KindOf) -> None:
    """Give today's names to the keys and kinds of a recipe's stages."""
    document.rename(Recipe)
    stages = document.value.get("stages") if isinstance(document.value, dict) else None
    for index, stage in enumerate(stages if isinstance(stages, list) else ()):
        kind = kind_of(str(stage.get("kind"))) if isinstance(stage, dict) else None
        if kind is None:
            continue
        if kind[0] != stage["kind"]:
            document.warn(("stages", index, "kind"), stage["kind"], kind[0])
            stage["kind"] = kind[0]
        document.rename(kind[1], ("stages", index, "settings"))
