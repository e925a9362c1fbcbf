"""What a fault in a settings file says: the line of the fault, in plain words."""

import itertools
from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field

from diagcot.jobs import UserError
from diagcot.jobs.settings import Document, Settings, load
from diagcot.recipe import Recipe


class Empty(Settings):
    pass


class Example(Settings):
    count: int = Field(1, ge=1)
    scale: float = Field(1.0, gt=0, le=2)
    flag: bool = False
    name: str = "a"
    mode: Literal["a", "b", "c"] = "a"
    many: list[int] = []
    table: dict[str, int] = {}
    empty: Empty = Empty()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flag: 7", "2: flag: must be true or false, is 7"),
        ("count: twelve", "2: count: must be a whole number, is 'twelve'"),
        ("count: 0", "2: count: must be at least 1, is 0"),
        ("count: null", "2: count: must be a whole number, is null"),
        ("scale: lots", "2: scale: must be a number, is 'lots'"),
        ("scale: 0", "2: scale: must be more than 0, is 0"),
        ("scale: 3", "2: scale: must be at most 2, is 3"),
        ("name: 7", "2: name: must be a text, is 7"),
        ("mode: d", "2: mode: must be one of a, b, c, is 'd'"),
        ("many: 3", "2: many: must be a list, is 3"),
        ("many: [1, x]", "2: many.1: must be a whole number, is 'x'"),
        ("table: true", "2: table: must be a mapping (key: value), is true"),
        ("empty: {a: 1}", "2: unknown key 'a': no key is valid in empty"),
    ],
)
def test_plain_messages(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"# a comment\n{text}\n")
    with pytest.raises(UserError) as error:
        load(path, Example)
    assert str(error.value) == f"{path}:{message}"


def test_not_a_mapping(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("7\n")
    with pytest.raises(UserError) as error:
        load(path, Example)
    assert str(error.value) == f"{path}:1: must be a mapping (key: value), is 7"


FIRST = "name: x\nstages:\n  - {name: one, kind: shard, number: 0}\n"


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("name: one\n    kind: shard\n    number: 0", "4: two stages are named 'one'"),
        (
            "name: two\n    kind: shard\n    number: 0\n    inputs:\n      tree: zero",
            "8: stage 'two' reads 'zero', which is not an earlier stage; there are: one",
        ),
        (
            "name: two\n    kind: shard\n    number: 0\n    elementwise: tree",
            "7: stage 'two': elementwise: 'tree' is not one of its inputs",
        ),
        ("name: two\n    kind: shard\n    number: 7", "6: stages.1.number: must be one of 0, 1, 2, 3, eval, is 7"),
    ],
)
def test_line_of_the_stage(tmp_path: Path, stage: str, message: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"{FIRST}  - {stage}\n")
    document = Document(path)
    with pytest.raises(UserError) as error:
        document.check(Recipe, document.value)
    assert str(error.value) == f"{path}:{message}"


def test_a_text_with_the_character_0_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text('name: x\nstages: &all\n  - {again: *all}\n  - {path: "a\\0b"}\n')
    with pytest.raises(UserError) as error:
        Document(path)
    assert str(error.value) == rf"{path}:4: a text holds the character 0 (\0): remove it"
    path.write_text('name: "a \\u00e9"\n')
    assert Document(path).value == {"name": "a é"}


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in itertools.pairwise("abcdefghijkl")
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "5: aliases (*name) add more than 100,000 values to those that are written"),
        ("a: 1\nstages: &s [*s]\n", "2: an alias (*name) stands inside what it stands for"),
        ("name: x\nsettings: &s\n  {studies: {more: *s}}\n", "2: an alias (*name) stands inside what it stands for"),
        ("a: 1\nb: " + "[" * 300 + "]" * 300, "2: more than 100 lists or mappings inside each other"),
        ("a: 1\nb: " + "[" * 99_999, "2: more than 100 lists or mappings inside each other"),
    ],
)
def test_aliases_that_copy_each_other_or_themselves_are_refused_with_their_line(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        Document(path)
    assert message in str(error.value) and str(path) in str(error.value)


def test_aliases_and_long_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: &a {b: 1}\nc: {<<: *a, d: *a}\n" + "e: [" + "1, " * 100_001 + "1]\n")
    found = Document(path).value
    assert found["c"] == {"b": 1, "d": {"b": 1}} and len(found["e"]) == 100_002
