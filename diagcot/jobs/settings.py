"""Typed settings from YAML, with errors that name the file, the line and the nearest valid key."""

import difflib
import json
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo

from diagcot.jobs.environment import own_code, yaml_text
from diagcot.jobs.errors import UserError
from diagcot.jobs.state import reading


class Settings(BaseModel):
    """Base of all typed settings: immutable, and an unknown key is an error. A number whose field names no bounds of its own
    is finite, at least 0 and at most `MOST`; true and false are no numbers.

    A model that renames a key lists it in `renamed` (old key -> new key) for one release. The old key is accepted
    without a warning, so that the plans of existing runs can be read; `Document.rename` warns about it in files that
    people write.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    renamed: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _accept_old_keys(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        for old, new in cls.renamed.items():
            if old in value and new in value:
                raise ValueError(f"`{old}` is the old name of `{new}`: give only `{new}`")
        return {cls.renamed.get(key, key): item for key, item in value.items()}

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch(cls, value: Any, info: ValidationInfo) -> Any:
        found = _switch_as_number(cls.model_fields[info.field_name or ""].annotation, value)
        if found is not None:
            raise ValueError(f"must be a number, is {written(found)}")
        return value

    @field_validator("*")
    @classmethod
    def _within_bounds(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[info.field_name or ""]
        if not _holds_numbers(field.annotation):
            return value
        least = None if _bounded(field, "ge", "gt") else 0
        most = None if _bounded(field, "le", "lt") else MOST
        for number in _numbers(value):
            if least is not None and number < least:
                raise ValueError(f"must be at least {least}, is {written(number)}")
            if most is not None and number > most:
                raise ValueError(f"must be at most {most}, is {written(number)}")
        return value


def _holds_numbers(annotation: Any) -> bool:
    return annotation in (int, float) or any(map(_holds_numbers, typing.get_args(annotation)))


def _switch_as_number(annotation: Any, value: Any) -> bool | None:
    """The true or false that stands where a number belongs, which pydantic would take for 1 or 0; None if there is none."""
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    options = _options(annotation)
    if isinstance(value, bool):
        return value if bool not in options and {int, float}.intersection(options) else None
    for option in options:
        origin, arguments = typing.get_origin(option), typing.get_args(option)
        if origin is dict and isinstance(value, Mapping):
            parts = [(arguments[1], part) for part in value.values()]
        elif origin in (list, tuple) and isinstance(value, list | tuple):
            parts = [(arguments[0], part) for part in value]
        else:
            continue
        found = (_switch_as_number(inside, part) for inside, part in parts)
        if (switch := next((one for one in found if one is not None), None)) is not None:
            return switch
    return None


def _bounded(field: FieldInfo, *names: str) -> bool:
    return any(getattr(bound, name, None) is not None for bound in field.metadata for name in names)


def _numbers(value: Any) -> Iterator[int | float]:
    """The numbers in a value of a field: itself, or those in lists and mappings. Settings inside have checked their own."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield value
    elif isinstance(value, Mapping):
        yield from (number for part in value.values() for number in _numbers(part))
    elif isinstance(value, list | tuple):
        yield from (number for part in value for number in _numbers(part))


Model = TypeVar("Model", bound=BaseModel)
Loc = tuple[int | str, ...]


class LocatedError(ValueError):
    """A fault that a validator finds further inside its model; `loc` is where, from that model."""

    def __init__(self, message: str, loc: Loc) -> None:
        super().__init__(message)
        self.loc = loc


UNIT = re.compile(
    r"\b(seconds|minutes|hours|days|GB|MB|pixels|tokens|share|characters|words|number of)\b", re.IGNORECASE
)
MOST_SEED = 2**32 - 1
MOST = 10**9
"""The largest number of a field that names no bound: more than any count, and fewer seconds than a timer takes."""
SHOWN = 60  # characters of a wrong value that are shown
EXPECTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a text",
    "invalid_key": "a text",
    "path_type": "a path",
    "literal_error": "one of {expected}",
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
}
"""What a value must be, by pydantic's type of the fault."""
OPTION = re.compile(r"\[key\]|str|int|float|bool|(list|tuple|dict|literal|constrained|function|lax)\W.*")
"""What pydantic adds to the place of a fault: that it is in a key, or which of several types was tried."""


def current_keys(annotation: Any, value: Any, at: Loc = (), old_keys: dict[Loc, str] | None = None) -> Any:
    """`value` with today's keys instead of old ones, at every depth; `annotation` is the type that it is meant for.

    old_keys: receives the location of every renamed key (beginning with `at`) and its old name.
    """
    old_keys = {} if old_keys is None else old_keys
    for option in _options(annotation):
        arguments = typing.get_args(option)
        if isinstance(value, dict) and isinstance(option, type) and issubclass(option, Settings):
            return {
                key: current_keys(_annotation(option, key), item, (*at, key), old_keys)
                for key, item in _rename(option.renamed, value, at, old_keys)
            }
        if isinstance(value, dict) and typing.get_origin(option) is dict:
            return {key: current_keys(arguments[1], item, (*at, key), old_keys) for key, item in value.items()}
        if isinstance(value, list | tuple) and typing.get_origin(option) in (list, tuple) and arguments:
            return [current_keys(arguments[0], item, (*at, i), old_keys) for i, item in enumerate(value)]
    return value


def _rename(
    renamed: Mapping[str, str], value: dict[Any, Any], at: Loc, old_keys: dict[Loc, str]
) -> Iterator[tuple[Any, Any]]:
    for key, item in value.items():
        if key in renamed and renamed[key] not in value:  # both: the model refuses them
            old_keys[(*at, renamed[key])] = key
            yield renamed[key], item
        else:
            yield key, item


def _annotation(model: type[BaseModel], key: Any) -> Any:
    field = model.model_fields.get(key)
    return field.annotation if field else None


def _options(annotation: Any) -> tuple[Any, ...]:
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if union else (annotation,)


class Document:
    """A YAML file that remembers the line of every key."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._old_keys: dict[Loc, str] = {}  # location of a renamed key -> its name in the file
        self.text = reading.plain_text(path)
        self.value: Any
        try:
            self._root, self.value = yaml_text.read(self.text, str(path))
        except yaml.YAMLError as error:
            mark, position = getattr(error, "problem_mark", None), getattr(error, "position", None)
            line = mark.line if mark else self.text.count("\n", 0, position) if position is not None else None
            where = str(path) if line is None else f"{path}:{line + 1}"
            why = getattr(error, "problem", None) or getattr(error, "reason", error)
            raise UserError(f"{where}: not valid YAML ({why})") from error
        except RecursionError as error:
            raise UserError(f"{path}: not valid YAML (lists or mappings inside each other, too deep)") from error
        except (ValueError, OverflowError) as error:  # such as 2026-99-99, which looks like a date
            raise UserError(f"{path}: a value cannot be read ({error}): write it in quotes, or correct it") from error

    def anchor(self, *keys: str) -> None:
        """Give every `file.py:NAME`, and every path below one of `keys`, its whole path, which begins in this file's folder."""
        whole = own_code.anchored(self.value, self.path.parent, keys)
        if whole != self.value:
            self.value = whole
            self.text = f"# {self.path.name}, with whole paths\n" + yaml.safe_dump(whole, sort_keys=False)

    def rename(self, model: Any, at: Loc = ()) -> None:
        """Replace the old keys of the part at `at`, which is meant for `model`, and print a warning for each."""
        old_keys: dict[Loc, str] = {}
        self._replace(at, current_keys(model, self._part(at), at, old_keys))
        self._old_keys |= old_keys
        for loc, old in old_keys.items():
            self.warn(loc, old, str(loc[-1]))

    def warn(self, loc: Loc, old: str, new: str) -> None:
        """Print on stderr that the file uses the old name of something."""
        print(f"{self.where(loc)}: `{old}` is now `{new}`; the old name works until the next release", file=sys.stderr)

    def _part(self, at: Loc) -> Any:
        part = self.value
        for step in at:
            try:
                part = part[step]
            except (KeyError, IndexError, TypeError):
                return None
        return part

    def _replace(self, at: Loc, value: Any) -> None:
        if not at:
            self.value = value
        elif value is not None:
            self._part(at[:-1])[at[-1]] = value

    def where(self, loc: Loc) -> str:
        """`file:line` of the deepest part of `loc` that the file has."""
        return f"{self.path}:{self.find(loc)[0]}"

    def find(self, loc: Loc) -> tuple[int, int]:
        """Line, from 1, of the deepest part of `loc` that the file has, and how deep that is."""
        node, line, depth = self._root, 1, 0
        for part in loc:
            child = None
            name = self._old_keys.get(loc[: depth + 1], str(part))
            if isinstance(node, yaml.MappingNode):
                for key, value in node.value:
                    if key.value == name:
                        child, line = value, key.start_mark.line + 1
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                child = node.value[part]
                line = child.start_mark.line + 1
            if child is None:
                break
            node, depth = child, depth + 1
        return line, depth

    def check(self, model: type[Model], value: Any, at: Loc = ()) -> Model:
        """`value` as `model`; `at` is where in the file the value stands. Raises UserError for the first few faults."""
        try:
            return model.model_validate(value)
        except ValidationError as error:
            faults: dict[Loc, list[Any]] = {}  # a value of several types is one fault for each of them
            for fault in error.errors():
                loc = tuple(part for part in fault["loc"] if not (isinstance(part, str) and OPTION.fullmatch(part)))
                faults.setdefault(loc, []).append(fault)
            messages = [self._message(model, loc, same, at) for loc, same in list(faults.items())[:5]]
            raise UserError("\n".join(messages)) from error

    def _message(self, model: type[BaseModel], loc: Loc, faults: Sequence[Any], at: Loc) -> str:
        """The message of the faults of one place. What a validator says comes first: only its type fits the value."""
        faults = sorted(faults, key=lambda row: row["type"] != "value_error")
        fault = faults[0]
        name = ".".join(str(part) for part in loc)
        if fault["type"] == "extra_forbidden":
            message = _unknown_key(str(loc[-1]), _fields(model, loc[:-1]), (*at, *loc[:-1]))
        elif fault["type"] == "missing":
            message = f"{name} is missing"
        else:
            error = fault.get("ctx", {}).get("error")
            if isinstance(error, LocatedError):
                loc, name = (*loc, *error.loc), ""
            message = ": ".join(part for part in (name, _plain(faults)) if part) + _unit(model, loc)
        return f"{self.where(at + loc)}: {message}"


def _unknown_key(key: str, valid: list[str], place: Loc) -> str:
    match = difflib.get_close_matches(key, valid, 1)
    if match:
        return f"unknown key {key!r}; did you mean {match[0]!r}?"
    if valid:
        return f"unknown key {key!r}; valid keys: {', '.join(sorted(valid))}"
    return f"unknown key {key!r}: no key is valid in {'.'.join(map(str, place)) or 'this file'}"


def _plain(faults: Sequence[Any]) -> str:
    """The message of the faults of one place without pydantic's own words."""
    fault = faults[0]
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    if expected := dict.fromkeys(_expected(row) for row in faults if row["type"] in EXPECTED):
        return f"must be {' or '.join(expected)}, is {written(fault['input'])}"
    return str(fault["msg"])


def written(value: Any) -> str:
    """A wrong value for a message, cut if it is long."""
    if isinstance(value, int) and abs(value) >= 10**yaml_text.DIGITS:
        return f"a number of more than {yaml_text.DIGITS} digits"
    shown = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}…"


def _unit(model: Any, loc: Loc) -> str:
    """What a number is, in brackets, by the first sentence of its field's description: it names the unit."""
    inside, field = model, None
    for part in loc:
        options = [option for option in _options(inside) if isinstance(option, type) and issubclass(option, BaseModel)]
        if isinstance(part, str) and options:
            field = options[0].model_fields.get(part)
            inside = field.annotation if field else None
        else:
            arguments = typing.get_args(inside)
            inside = arguments[-1] if arguments else None
    if field is None or not field.description or not UNIT.search(field.description):
        return ""
    return f" ({field.description.partition('. ')[0].rstrip('.').partition('; ')[0]})"


def _expected(fault: Any) -> str:
    """What a value of the wrong type must be."""
    context = fault.get("ctx", {})
    context = {
        name: int(bound) if isinstance(bound, float) and bound.is_integer() else bound
        for name, bound in context.items()
    }
    if "expected" in context:
        context = context | {"expected": context["expected"].replace("'", "").replace(" or ", ", ")}
    return EXPECTED[fault["type"]].format(**context)


def load(path: Path, model: type[Model]) -> Model:
    """Read a YAML file as `model`, with a warning for each old key. Raises UserError with file and line."""
    document = Document(path)
    document.rename(model)
    return document.check(model, document.value if document.value is not None else {})


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
