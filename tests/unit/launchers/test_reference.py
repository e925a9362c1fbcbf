"""docs/reference says what the code says, and `diagcot help` explains every key."""

import json
from pathlib import Path

import pytest
from pydantic import BaseModel

from diagcot.cli import main as cli
from diagcot.cli.reference import pages, run_files, verb
from diagcot.cli.reference.keys import keys, nested
from diagcot.jobs import Cluster, UserError
from diagcot.jobs.state import attempts
from diagcot.recipe import Extension, Recipe
from launchers import registry
from tests import chains

FOLDER = chains.ROOT / "docs" / "reference"
KINDS = {name: kind.settings for name in registry.modules() if (kind := registry.find(name))}


@pytest.fixture(scope="module")
def written() -> dict[str, str]:
    return pages.pages()


@pytest.mark.parametrize("name", [path.name for path in sorted(FOLDER.glob("*.md")) if path.name != "README.md"])
def test_a_page_is_what_the_code_says(written: dict[str, str], name: str) -> None:
    assert (FOLDER / name).read_text() == written[name], "run `diagcot help --write docs/reference`"


def test_every_page_is_listed(written: dict[str, str]) -> None:
    index = (FOLDER / "README.md").read_text()
    assert all(f"({path.name})" in index for path in FOLDER.glob("*.md") if path.name != "README.md")
    assert {path.name for path in FOLDER.glob("*.md")} == {"README.md", *written}


@pytest.mark.parametrize("model", [Recipe, Extension, Cluster, *KINDS.values()], ids=lambda model: model.__name__)
def test_every_key_is_described_by_a_sentence(model: type[BaseModel]) -> None:
    queue, seen = [model], set()
    while queue:
        one = queue.pop()
        if one in seen:
            continue
        seen.add(one)
        silent = [f"{one.__name__}.{key.name}" for key in keys(one) if not key.description.endswith(".")]
        assert silent == []
        queue += [found for _, found in nested(one)]


def test_every_event_of_the_code_is_described_and_no_other() -> None:
    assert run_files.events().keys() == run_files.EVENTS.keys()


def test_keys_of_run_files_are_those_that_are_written(tmp_path: Path) -> None:
    plan = chains.plan(tmp_path, "first", 1, profile="small")
    assert plan.header().keys() == run_files.PLAN_KEYS.keys()
    folder = tmp_path / "stage"
    folder.mkdir()
    attempts.write(folder, attempts.Attempt(1, "submitted"))
    (record,) = (folder / "attempts").glob("1.json")
    assert json.loads(record.read_text()).keys() == run_files.ATTEMPT_KEYS.keys()


def test_help_shows_one_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["help", "kl_coef"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("kl_coef  (kind grpo)\n") and "number, ≥ 0; default: 0.05" in shown
    assert verb.explain("kl") == verb.explain("kl_coef")  # by its old name
    steps = verb.explain("deepspeed.steps")
    assert steps.splitlines()[0] == "deepspeed.steps  (kind align, kind grpo, kind sft)"
    assert "resource_profiles.minutes  (cluster file)" in verb.explain("minutes")


def test_help_offers_the_nearest_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="did you mean group_size"):
        verb.explain("groupsize")
    assert cli.main(["help", "kl_coeff"]) == 1
    assert (
        capsys.readouterr().err
        == "error: no kind and no key 'kl_coeff' in recipes or cluster files; did you mean kl_coef?\n"
    )


def test_help_writes_the_pages(written: dict[str, str], tmp_path: Path) -> None:
    assert cli.main(["help", "--write", str(tmp_path / "reference")]) == 0
    assert {path.name for path in (tmp_path / "reference").iterdir()} == set(written)
