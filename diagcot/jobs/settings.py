"""Typed settings from YAML, with errors that name the file, the line and the nearest valid key."""

import difflib
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from diagcot.jobs.errors import UserError


class Settings(BaseModel):
    """Base of all typed settings: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Model = TypeVar("Model", bound=BaseModel)
Loc = tuple[int | str, ...]


class Document:
    """A YAML file that remembers the line of every key."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.text = path.read_text(encoding="utf-8")
            self._root = yaml.compose(self.text, Loader=yaml.CSafeLoader)
            self.value: Any = yaml.load(self.text, Loader=yaml.CSafeLoader)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f"{path}:{mark.line + 1}" if mark else str(path)
            raise UserError(f"{where}: not valid YAML ({getattr(error, 'problem', error)})") from error
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error

    def where(self, loc: Loc) -> str:
        """`file:line` of the deepest part of `loc` that the file has."""
        return f"{self.path}:{self.find(loc)[0]}"

    def find(self, loc: Loc) -> tuple[int, int]:
        """Line, from 1, of the deepest part of `loc` that the file has, and how deep that is."""
        node, line, depth = self._root, 1, 0
        for part in loc:
            found = None
            if isinstance(node, yaml.MappingNode):
                for key, value in node.value:
                    if key.value == str(part):
                        found, line = value, key.start_mark.line + 1
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                found = node.value[part]
                line = found.start_mark.line + 1
            if found is None:
                break
            node, depth = found, depth + 1
        return line, depth

    def check(self, model: type[Model], value: Any, at: Loc = ()) -> Model:
        """`value` as `model`; `at` is where in the file the value stands. Raises UserError for the first few faults."""
        try:
            return model.model_validate(value)
        except ValidationError as error:
            faults = [self._tell(model, fault, at) for fault in error.errors()[:5]]
            raise UserError("\n".join(faults)) from error

    def _tell(self, model: type[BaseModel], fault: Any, at: Loc) -> str:
        loc: Loc = tuple(fault["loc"])
        where = self.where(at + loc)
        name = ".".join(str(part) for part in loc)
        if fault["type"] == "extra_forbidden":
            valid = _fields(model, loc[:-1])
            near = difflib.get_close_matches(str(loc[-1]), valid, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; valid keys: {', '.join(sorted(valid))}"
            return f"{where}: unknown key {loc[-1]!r}{hint}"
        if fault["type"] == "missing":
            return f"{where}: {name} is missing"
        return f"{where}: {name}: {fault['msg']}"


def load(path: Path, model: type[Model]) -> Model:
    """Read a YAML file as `model`. Raises UserError with file and line."""
    document = Document(path)
    return document.check(model, document.value if document.value is not None else {})


def near(name: str, valid: typing.Iterable[str]) -> str:
    """`; did you mean 'x'?` or a list of what is valid."""
    choices = sorted(valid)
    match = difflib.get_close_matches(name, choices, 1, 0.5)
    return f"; did you mean {match[0]!r}?" if match else f"; there are: {', '.join(choices)}"


def _fields(model: Any, loc: Loc) -> list[str]:
    """Names that are valid inside `model` at `loc`."""
    for part in loc:
        if isinstance(part, str) and isinstance(model, type) and issubclass(model, BaseModel):
            field = model.model_fields.get(part)
            model = field.annotation if field else None
        else:  # an index or a key of a collection: step into its element type
            arguments = typing.get_args(model)
            model = arguments[-1] if arguments else None
        if typing.get_origin(model) in (typing.Union, types.UnionType):
            options = [a for a in typing.get_args(model) if isinstance(a, type) and issubclass(a, BaseModel)]
            model = options[0] if options else model
    if isinstance(model, type) and issubclass(model, BaseModel):
        return list(model.model_fields)
    return []
