"""The keys of settings models: values that they take, default, and description."""

import json
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
WORDS = {int: "integer", float: "number", str: "text", bool: "true or false", Path: "path", Any: "anything"}


@dataclass(frozen=True)
class Key:
    """One key of a model."""

    name: str
    values: str
    default: str
    description: str
    old_name: str  # accepted for one release; empty if the key was not renamed


def keys(model: type[BaseModel]) -> Iterator[Key]:
    """The keys of a model, in the order of its fields; keys of nested models are theirs."""
    renamed: Mapping[str, str] = getattr(model, "renamed", {})
    old_names = {new: old for old, new in renamed.items()}
    for name, field in model.model_fields.items():
        bounds = _bounds(field)
        yield Key(
            field.alias or name,
            _values(field.annotation) + (f", {bounds}" if bounds else ""),
            _default(field),
            field.description or "",
            old_names.get(name, ""),
        )


def nested(model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """(key, model) of the keys of a model whose values are models of their own."""
    for name, field in model.model_fields.items():
        for found in _models(field.annotation):
            yield name, found


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models(argument)


def _bounds(field: FieldInfo) -> str:
    """Such as `> 0, ≤ 1`; empty if every value of the type is allowed."""
    bounds = [
        f"{sign} {getattr(constraint, name):.10g}"
        for constraint in field.metadata
        for name, sign in BOUNDS.items()
        if getattr(constraint, name, None) is not None
    ]
    bounds += ["not empty" for constraint in field.metadata if getattr(constraint, "min_length", 0)]
    return ", ".join(bounds)


def _values(annotation: Any) -> str:
    """The values of a type in words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _values(arguments[0])
    if origin in (typing.Union, types.UnionType):
        named = [_values(argument) for argument in arguments if argument is not type(None)]
        return " or ".join([*named, "null"] if type(None) in arguments else named)
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" if value != "" else "empty" for value in arguments)
    if origin is dict:
        return f"mapping of {_values(arguments[0])} to {_values(arguments[1])}"
    if origin in (list, tuple):
        return f"list of {_values(arguments[0])}" if arguments else "list"
    return WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(field: FieldInfo) -> str:
    """The default as it would stand in a recipe; empty if the key must be given."""
    if field.is_required():
        return ""
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        standard = {name: info.default for name, info in type(value).model_fields.items()}
        changed = {name: item for name, item in value if name not in standard or item != standard[name]}
        return _plain(changed) if changed else "its own defaults"
    return _plain(value)


def _plain(value: Any) -> str:
    return json.dumps(value, default=lambda item: item.model_dump() if isinstance(item, BaseModel) else str(item))
