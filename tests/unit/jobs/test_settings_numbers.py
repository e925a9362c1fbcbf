"""Every number of every file of settings has a range, and a wrong one is named with its line, its range and its unit."""

import ast
import functools
import importlib
import math
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from diagcot.jobs import UserError
from diagcot.jobs.settings import Document, Settings

ROOT = Path(__file__).parents[3]
WRONG: dict[str, Any] = {
    "infinite": math.inf, "minus infinite": -math.inf, "not a number": math.nan, "5,000 digits": 10**5000,
    "minus 5,000 digits": -(10**5000), "words": "many", "words of digits": "1e999", "huge": 1e300, "minus huge": -1e300,
}  # fmt: skip


def modules() -> Iterator[str]:
    """Modules that define settings; found without importing all others."""
    for path in sorted([*(ROOT / "diagcot").rglob("*.py"), *(ROOT / "launchers").rglob("*.py")]):
        classes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
        if any("Settings" in ast.unparse(base) for node in classes for base in node.bases):
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts)


def classes(base: type[Settings]) -> Iterator[type[Settings]]:
    for child in base.__subclasses__():
        yield child
        yield from classes(child)


def is_number(annotation: Any) -> bool:
    """Whether it is a number, or a list or mapping of numbers, or one of several types of which one is."""
    if typing.get_origin(annotation) is typing.Literal:
        return False
    return annotation in (int, float) or any(is_number(part) for part in typing.get_args(annotation))


def shaped(annotation: Any, number: Any) -> Any:
    """The number where the annotation has one: alone, in a list, or in a mapping."""
    if annotation in (int, float):
        return number
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (list, tuple):
        return [shaped(arguments[0], number)] * (len(arguments) if origin is tuple and ... not in arguments else 1)
    if origin is dict:
        keys = typing.get_args(arguments[0])
        return {keys[0] if keys else "a": shaped(arguments[1], number)}
    return shaped(next(part for part in arguments if is_number(part)), number)


@functools.cache
def found() -> list[tuple[type[Settings], str]]:
    """All fields that hold numbers, each with its class."""
    for name in modules():
        importlib.import_module(name)
    own = [child for child in set(classes(Settings)) if child.__module__.startswith(("diagcot.", "launchers."))]
    own.sort(key=lambda child: (child.__module__, child.__name__))
    return [(child, name) for child in own for name, field in child.model_fields.items() if is_number(field.annotation)]


def faults(model: type[BaseModel], name: str, value: Any) -> list[Any]:
    """What is wrong with the field, if it has this value."""
    key = model.model_fields[name].alias or name
    try:
        model.model_validate({key: value})
    except ValidationError as error:
        return [fault for fault in error.errors() if fault["loc"][:1] in ((key,), (name,))]
    return []


def test_each_number_of_each_class_has_a_range() -> None:
    assert len(found()) > 150
    accepted = []
    for model, name in found():
        annotation = model.model_fields[name].annotation
        for what, number in WRONG.items():
            texts = isinstance(number, str) and "str]" in str(annotation)  # a list of numbers or of names of columns
            if not texts and not faults(model, name, shaped(annotation, number)):
                accepted.append(f"{model.__name__}.{name}: {what}")
    assert accepted == []


def test_a_number_that_may_be_negative_says_so() -> None:
    negative = [
        f"{model.__name__}.{name}"
        for model, name in found()
        if not faults(model, name, shaped(model.model_fields[name].annotation, -1))
    ]
    assert set(negative) == {"JobOptions.nice", "Size.nice", "Slurm.nice", "RewardSettings.margin"}


RANGE = re.compile(r"(?:\bfrom |, )(-?\d[\d.]*) (?:up )?to (\d[\d.]*\d|\d)\b|, (\d+) or more\b")


def test_the_range_that_a_text_states_is_the_one_that_is_held() -> None:
    stated, accepted = 0, []
    for model, name in found():
        field = model.model_fields[name]
        if name == "max_num_seqs" or not (said := RANGE.search((field.description or "").partition("; ")[0])):
            continue  # the range of `max_num_seqs` is that of its default
        first, last = float(said[1] or said[3]), float(said[2]) if said[2] else None
        stated += 1
        for wrong in (first - 1, *([] if last is None else [last + 1])):
            if not faults(model, name, shaped(field.annotation, wrong)):
                accepted.append(f"{model.__name__}.{name}: {wrong}")
    assert stated > 20 and accepted == []


def test_true_and_false_are_no_numbers() -> None:
    for model, name in found():
        annotation = model.model_fields[name].annotation
        told = [fault["msg"] for fault in faults(model, name, shaped(annotation, True))]
        assert any("must be a number, is true" in message for message in told), f"{model.__name__}.{name}: {told}"


def test_what_is_held_out_is_at_most_all() -> None:
    from diagcot.data.phantom.settings import PhantomsSettings
    from diagcot.shards.settings import Source

    assert faults(PhantomsSettings, "held_out", 1.5) and not faults(PhantomsSettings, "held_out", 0.5)
    for shares in ({"test": 1.5}, {"validate": 0.6, "test": 0.6}):
        assert faults(Source, "held_out", shares)
    assert not faults(Source, "held_out", {"validate": 0.5, "test": 0.5})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cpus: true", "cpus: must be a number, is true"),
        ("minutes: -3", r"minutes: must be at least 1, is -3 \(Time limit in minutes, a year at most\)"),
        ("minutes: 9999999", "minutes: must be at most 525600, is 9999999"),
        ("hang_minutes: .inf", "hang_minutes: must be a finite number"),
        ("hang_minutes: .nan", "hang_minutes: must be a finite number"),
        ("mem_gb: -1", r"mem_gb: must be at least 0, is -1 \(Memory of one node in GB\)"),
        ("gpus: 1" + "0" * 40, "a number of 41 digits: at most 18 are read"),
        ("cpus: 999999999999", r"cpus: must be at most 1000000000, is 999999999999"),
        ("minutes: many", "minutes: must be a whole number, is 'many'"),
    ],
)
def test_the_message_names_line_range_and_unit(tmp_path: Path, text: str, message: str) -> None:
    from diagcot.jobs.cluster import load_cluster

    path = tmp_path / "site.yaml"
    path.write_text(f"name: site\nexecutor: local\nresource_profiles:\n  cpu:\n    {text}\n")
    with pytest.raises(UserError, match=rf"site\.yaml:5: .*{message}"):
        load_cluster(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"name: a\nstudies: 2\nstudies: 99999\n",
            r":3: the key 'studies' is there twice, first in line 2: remove one",
        ),
        (b"a:\n  b: {c: 1, d: 2, c: 3}\n", r":2: the key 'c' is there twice, first in line 2"),
        ("name: übersicht\n".encode("latin-1"), r":1: the byte 0xfc is not UTF-8: save the file as UTF-8"),
        ("name: a\n".encode("utf-16"), r"it is UTF-16, save it as UTF-8"),
        (b"\x7fELF\x02\x01\x01\x00\x00", r":1: it holds the character 0, so it is no text"),
        (b"name: \x1b]52;c;x\n", r":1: not valid YAML"),
        (b'name: "\\ud800"\n', r":1: "),
        (b"[" * 5000, r":1: more than 100 lists or mappings inside each other"),
        (b"when: 2026-99-99\n", r"a value cannot be read|^$"),
    ],
)
def test_what_is_no_text_in_utf_8_is_told_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        Document(path)
    assert "\x1b" not in str(error.value)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: a\n")
    assert Document(path).value == {"name": "a"}
    path.write_text("base: &b {lr: 1}\none: {<<: *b, lr: 2}\n")  # what is merged may be replaced
    assert Document(path).value["one"] == {"lr": 2}
