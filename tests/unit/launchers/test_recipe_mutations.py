"""Whatever is wrong in a recipe, no verb answers with a traceback, and each message says where and what.

Every key of every recipe is removed, renamed, and given values of other types; a sample of a fixed seed is tried.
`MUTATIONS=5000` tries more of them (there are about 11,000).
"""

import copy
import datetime
import os
import random
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from diagcot.cli.main import main
from diagcot.jobs import UserError
from diagcot.jobs.settings import Loc
from diagcot.preflight.doctor import data
from launchers.chain import ROOT, open_chain

TRIED = int(os.environ.get("MUTATIONS", "10"))
VALUES: dict[str, Callable[[Any], Any]] = {
    "null": lambda value: None,
    "true": lambda value: True,
    "negative": lambda value: -1,
    "zero": lambda value: 0,
    "fraction": lambda value: 2.5,
    "huge": lambda value: 10**30,
    "nan": lambda value: float("nan"),
    "word": lambda value: "wrong",
    "empty text": lambda value: "",
    "zero byte": lambda value: "a\0b",
    "date": lambda value: datetime.date(2020, 1, 1),
    "list": lambda value: [value],
    "doubled": lambda value: [value, value],
    "empty list": lambda value: [],
    "list of lists": lambda value: [[]],
    "empty mapping": lambda value: {},
    "mapping": lambda value: {"wrong": value},
    "number as key": lambda value: {3: value},
    "typing error": lambda value: f"{value}zz",
}
PLACED = re.compile(r"\S+\.yaml:\d+: \S|stage \S+")
NO_SLURM = re.compile(r"sbatch|squeue|scontrol|sinfo|sacct")


def places(value: Any, at: Loc = ()) -> Iterator[Loc]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in entries:
        yield (*at, key)
        yield from places(part, (*at, key))


def part(value: Any, at: Loc) -> Any:
    for step in at:
        value = value[step]
    return value


def mutated(recipe: Any, at: Loc, how: str) -> Any:
    changed = copy.deepcopy(recipe)
    holder, key = part(changed, at[:-1]), at[-1]
    if how == "removed":
        del holder[key]
    elif how == "renamed":
        holder[f"{key}zz"] = holder.pop(key)
    else:
        holder[key] = VALUES[how](holder[key])
    return changed


@cache
def cases() -> list[tuple[Path, Loc, str]]:
    """Each (recipe, place, mutation); the same key of the same kind of stage is taken once for each type of its value."""
    found: dict[tuple[Any, ...], tuple[Path, Loc, str]] = {}
    for path in sorted((ROOT / "recipes").rglob("*.yaml")):
        recipe = yaml.safe_load(path.read_text())
        for at in places(recipe):
            kind = recipe["stages"][at[1]]["kind"] if at[0] == "stages" and len(at) > 1 else at[0]
            shape = tuple("#" if isinstance(step, int) else step for step in at)
            for how in [*VALUES, "removed", *(["renamed"] if isinstance(at[-1], str) else [])]:
                found.setdefault((kind, shape, how, type(part(recipe, at))), (path, at, how))
    return list(found.values())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the laptop's and a Slurm site's cluster file, on a machine without Slurm."""
    for name in ("laptop", "example"):
        cluster = yaml.safe_load((ROOT / "slurm" / "clusters" / f"{name}.yaml").read_text())
        cluster["roots"] = {root: str(tmp_path / root) for root in ("logs", "shards", "models")}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(cluster))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("IU_XRAY_DIR", raising=False)
    return tmp_path


def plan(recipe: str, folder: Path) -> int:
    return main(["plan", "--recipe", recipe, "--cluster", str(folder / "laptop.yaml"), "--run", "mutated"])


def dry_run(recipe: str, folder: Path) -> int:
    return main(["submit", "--dry", "--recipe", recipe, "--cluster", str(folder / "example.yaml"), "--run", "mutated"])


def submit(recipe: str, folder: Path) -> int:
    return main(["submit", "--recipe", recipe, "--cluster", str(folder / "example.yaml"), "--run", "mutated"])


def doctor(recipe: str, folder: Path) -> int:
    try:
        findings = list(data.stages(open_chain(recipe, str(folder / "laptop.yaml"), "mutated")))
    except UserError as error:
        print(error)
        return 1
    return int(any(finding.level == "bad" for finding in findings))


@pytest.mark.parametrize("verb", [plan, dry_run, submit, doctor])
def test_a_fault_of_a_recipe_is_told_with_its_place(
    verb: Callable[[str, Path], int], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path, at, how in random.Random(verb.__name__).sample(cases(), TRIED):
        recipe = folder / "mutated.yaml"
        recipe.write_text(yaml.safe_dump(mutated(yaml.safe_load(path.read_text()), at, how), sort_keys=False))
        what = f"{path.relative_to(ROOT)}: {'.'.join(map(str, at))}: {how}"
        try:
            code = verb(str(recipe), folder)
        except (Exception, SystemExit) as error:
            raise AssertionError(f"{what}: {verb.__name__} raised {type(error).__name__}") from error
        shown = capsys.readouterr()
        said = [line for line in shown.err.splitlines() if line.startswith("error: ")]
        assert code in (0, 1), what
        assert all(PLACED.search(line) or NO_SLURM.search(line) for line in said), f"{what}: {said}"
