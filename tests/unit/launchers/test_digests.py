"""Digests of a run: equal for a run that was made again under another name, and for no other."""

import json
from pathlib import Path

import pytest

from diagcot.cli.main import main
from diagcot.jobs import Pipeline, Unit
from launchers import digests
from tests import chains

RECIPE = """\
name: small
seed: 3
stages:
  - {name: phantoms, kind: phantoms, number: 0, settings: {studies: 4, size: 32, views: [PA]}}
  - name: shard
    kind: shard
    number: 0
    inputs: {tree: phantoms}
    settings: {sources: [{kind: mimic_cxr, input: tree}], shards: 2, image_size: 32}
  - {name: examples, kind: synthetic-sft, number: 1, inputs: {shards: shard}, settings: {tasks: {report: 1.0}}}
"""


def made(folder: Path, name: str, recipe: str = RECIPE) -> Path:
    """A finished run in a folder of its own."""
    folder.mkdir(exist_ok=True)
    (folder / "small.yaml").write_text(recipe)
    roots = ", ".join(f"{root}: {folder / root}" for root in ("logs", "shards", "models"))
    (folder / "here.yaml").write_text(
        f"name: here\nexecutor: debug\nresource_profiles: {{cpu: {{}}}}\nroots: {{{roots}}}\n"
    )
    chain = ["--recipe", str(folder / "small.yaml"), "--cluster", str(folder / "here.yaml"), "--run", name]
    assert main(["submit", *chain]) == 0
    return folder / "logs" / name


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("here"), "one")


def test_what_decides_a_result_changes_its_digests(first: Path, tmp_path: Path) -> None:
    setting = digests.of_run(made(tmp_path / "b", "one", RECIPE.replace("report: 1.0", "report: 0.5")))
    assert [a == b for a, b in zip(digests.of_run(first), setting, strict=True)] == [True, True, False]
    seed = digests.of_run(made(tmp_path / "c", "one", RECIPE.replace("seed: 3", "seed: 4")))
    pairs = zip(digests.of_run(first), seed, strict=True)
    assert not [a.stage for a, b in pairs if a.decided_by == b.decided_by or a.made == b.made]


def test_a_table_that_was_made_again_has_the_digests_of_one_that_was_made_so_at_once(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"{number}.txt").write_text(f"{number}\n")

    def table(root: Path, *values: int) -> digests.StageDigest:
        for value in values:
            on = chains.cluster("debug", roots={name: str(root / name) for name in ("logs", "shards", "models")})
            flow = Pipeline("run", on, root)
            cells = flow.stage("cells", "tests.kinds.count", ["a"], "small")
            flow.stage(
                "table", "tests.kinds.copied:run", [Unit(f"table.{value}", {"from": str(tmp_path / f"{value}.txt")})], "small",
                settings={"value": value}, inputs={"cells": [cells]}, grows="anew", selector_settings=["value"],
            )  # fmt: skip
            flow.submit()
        return digests.of_run(root / "logs" / "run")[1]

    once = table(tmp_path / "once", 1)
    assert table(tmp_path / "again", 1, 2, 1) == once
    assert table(tmp_path / "other", 1, 2) != once
    assert table(tmp_path / "there", 2) == table(tmp_path / "here", 1, 2)


def test_a_run_that_is_made_again_has_the_same_digests(
    first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = made(tmp_path / "there", "two")
    found = digests.of_run(first)
    assert [stage.stage for stage in found] == ["phantoms", "shard", "examples"]
    assert found == digests.of_run(again) and all(stage.made and not stage.damaged for stage in found)
    names = [json.loads(path.read_text())["outputs"] for path in sorted((first / "examples" / "done").iterdir())]
    file = Path(next(iter(names[0])))
    assert "one/shard/00000.h5" in file.read_text()  # the run's name is in its files, and in no digest
    capsys.readouterr()
    there = ["--against", "two"]
    (first.parent / "two").symlink_to(again)
    verify = ["verify", "--run", "one", "--logs", str(first.parent)]
    assert main([*verify, *there]) == 0
    assert "one and two have made the same, bit by bit" in capsys.readouterr().out
    file.write_text(file.read_text() + "\n")
    assert main(verify) == 1
    assert f"{file} (unit 00000) was changed after it was published" in capsys.readouterr().out
