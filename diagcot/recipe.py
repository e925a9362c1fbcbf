"""Recipes: what to train, as a list of stages. Science only; what belongs to a cluster is in slurm/clusters/."""

from pathlib import Path
from typing import Any

from pydantic import field_validator, model_validator

from diagcot.jobs.errors import UserError
from diagcot.jobs.settings import Document, Settings, near

__all__ = ["Recipe", "Settings", "StageSpec", "find"]


class StageSpec(Settings):
    """One stage of a chain. Its inputs are its edges; `each` names the input that it follows unit by unit."""

    name: str
    kind: str  # a module of launchers/
    stage: str  # the number of `make submit-stageN`, or eval
    inputs: dict[str, list[str]] = {}  # role -> names of earlier stages
    each: str | None = None
    settings: dict[str, Any] = {}
    unit_seconds: float | None = None  # how long one unit takes, where the launcher's guess is far off; decides packing

    @field_validator("stage", mode="before")
    @classmethod
    def _text(cls, value: Any) -> str:
        return str(value)

    @field_validator("inputs", mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        return {k: [v] if isinstance(v, str) else v for k, v in value.items()} if isinstance(value, dict) else value

    @property
    def follows(self) -> list[str]:
        return list(dict.fromkeys(name for names in self.inputs.values() for name in names))


class Recipe(Settings):
    """A chain of stages in the order in which they may run."""

    name: str
    seed: int = 0
    stages: list[StageSpec]

    @model_validator(mode="after")
    def _edges(self) -> "Recipe":
        known: set[str] = set()
        for spec in self.stages:
            if spec.name in known:
                raise ValueError(f"two stages are named {spec.name!r}")
            for name in spec.follows:
                if name not in known:
                    raise ValueError(
                        f"stage {spec.name!r} reads {name!r}, which is not an earlier stage{near(name, known)}"
                    )
            if spec.each is not None and spec.each not in spec.inputs:
                raise ValueError(
                    f"stage {spec.name!r}: each: {spec.each!r} is not one of its inputs{near(spec.each, spec.inputs)}"
                )
            known.add(spec.name)
        return self


def find(name: str, root: Path) -> tuple[Recipe, Document]:
    """The recipe `name` of recipes/, or a path to a file of one's own, with the document that knows its lines."""
    folder = root / "recipes"
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.exists():
        known = [p.stem for p in folder.glob("*.yaml")]
        raise UserError(
            f"unknown recipe {name!r}{near(name, known)}. A recipe is a file in {folder.relative_to(root)}/"
        )
    document = Document(path)
    return document.check(Recipe, document.value or {}), document
