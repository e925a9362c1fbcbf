"""Old keys of recipes, clusters and plans: accepted for one release, with a warning where a person wrote them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from diagcot.cot.settings import CollectSettings
from diagcot.jobs import Cluster, Pipeline, UserError
from diagcot.jobs.plans import plan as plans
from diagcot.jobs.settings import Document, Settings, load
from launchers.chain import ROOT, open_chain


class Inner(Settings):
    renamed: ClassVar[Mapping[str, str]] = {"many": "count"}
    count: int = 1
    other: int = 0


class Outer(Settings):
    renamed: ClassVar[Mapping[str, str]] = {"inside": "inner"}
    inner: Inner = Inner()
    more: dict[str, Inner] = {}
    rows: tuple[Inner, ...] = ()
    perhaps: Inner | None = None


NESTED = """\
inside:
  many: 2
more:
  a: {many: 3}
rows:
  - {count: 4}
  - {many: 5}
perhaps:
  many: 6
"""


def document(folder: Path, text: str) -> Path:
    (folder / "some.yaml").write_text(text)
    return folder / "some.yaml"


def test_old_keys_are_accepted_at_every_depth_with_one_warning_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = load(document(tmp_path, NESTED), Outer)
    assert (made.inner.count, made.more["a"].count, made.rows[1].count) == (2, 3, 5)
    assert made.perhaps is not None and made.perhaps.count == 6
    lines = capsys.readouterr().err.splitlines()
    places = [line.split(": ", 1) for line in lines]
    assert sorted(int(place.rpartition(":")[2]) for place, _ in places) == [1, 2, 4, 7, 9]
    assert places[1][1] == "`many` is now `count`; the old name works until the next release"
    assert load(document(tmp_path, "inner: {count: 2}"), Outer).inner.count == 2
    assert capsys.readouterr().err == ""


def test_both_names_of_a_key_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"some.yaml:2: inner: .*`many` is the old name of `count`: give only `count`"):
        load(document(tmp_path, "more: {}\ninner: {many: 1, count: 2}\n"), Outer)


def test_a_fault_below_an_old_key_names_its_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"some.yaml:2: inner.count: must be a whole number"):
        load(document(tmp_path, "inside:\n  many: x\n"), Outer)


def test_settings_of_existing_runs_are_read_without_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    assert Outer.model_validate({"inside": {"many": 7}}).inner.count == 7
    assert capsys.readouterr().err == ""


def test_a_preset_agrees_with_old_keys_of_an_existing_run() -> None:
    made = CollectSettings(preset="as-released")
    stored = made.model_dump(mode="json")
    stored["search"]["film_first"] = stored["search"].pop("image_first")
    assert CollectSettings.model_validate(stored) == made


def test_a_run_that_was_planned_with_old_keys_is_the_same_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Cluster.model_validate({"name": "here", "executor": "local", "sizes": {"small": {}}})
    assert "small" in cluster.resource_profiles

    def pipeline(settings: Inner) -> Pipeline:
        made = Pipeline("trial", cluster, tmp_path)
        made.stage("first", "kind", ["unit"], "small", settings=settings)
        return made

    first = pipeline(Inner(count=3)).write()[0]
    header = json.loads((first.path / "plan.json").read_text())
    header["settings"] = {"many": 3, "other": 0}  # as an earlier release wrote it
    (first.path / "plan.json").write_text(json.dumps(header))
    pipeline(Inner(count=3)).write()
    assert plans.write(pipeline(Inner(count=3)).plans[0]).settings == {"many": 3, "other": 0}
    with pytest.raises(UserError, match=r"settings.count: 3 in the run, 4 now"):
        pipeline(Inner(count=4)).write()
    stored = json.loads((first.path.parent / "cluster.yaml").read_text())
    assert "sizes" in stored and "resource_profiles" not in stored  # code of earlier submissions reads it, too
    assert Cluster.read(first.path.parent) == cluster
    assert capsys.readouterr().err == ""


def test_a_run_of_the_last_release_is_the_same_run_though_modules_have_moved(tmp_path: Path) -> None:
    roots = {name: str(tmp_path / name) for name in ("logs", "shards", "models")}
    cluster = {"name": "here", "executor": "local", "roots": roots, "resource_profiles": {"cpu": {}}}
    (tmp_path / "here.yaml").write_text(json.dumps(cluster))
    stages = [{"name": "texts", "kind": "texts", "number": 0, "settings": {"files": ["some.jsonl"]}}]
    (tmp_path / "mine.yaml").write_text(json.dumps({"name": "mine", "stages": stages}))

    def write() -> Path:
        return open_chain(str(tmp_path / "mine.yaml"), str(tmp_path / "here.yaml"), "old").write()[0].path / "plan.json"

    path = write()
    header = json.loads(path.read_text())
    assert header["kind"] == "diagcot.training.kinds.texts"
    path.write_text(json.dumps(header | {"kind": "diagcot.training.texts"}))
    write()
    path.write_text(json.dumps(header | {"kind": "diagcot.training.others"}))
    with pytest.raises(UserError, match=r"kind: \"diagcot.training.others\" in the run"):
        write()


BASE = """\
name: base
stages:
  - {name: phantoms, kind: phantoms, stage: 0}
  - name: shard
    kind: shard
    number: 0
    inputs: {tree: phantoms}
    settings: {sources: [{kind: mimic_cxr, input: tree}]}
  - name: examples
    kind: primer
    number: 0
    inputs: {shards: shard}
    each: shards
  - {name: model, kind: model, number: 1, inputs: {samples: examples}}
"""


def test_a_recipe_with_old_keys_and_kinds_gives_the_same_chain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "base.yaml").write_text(BASE)
    old = open_chain(str(tmp_path / "base.yaml"), "laptop", None).recipe
    lines = [line.removeprefix(f"{tmp_path}/") for line in capsys.readouterr().err.splitlines()]
    tail = "the old name works until the next release"
    assert lines == [
        f"base.yaml:3: `stage` is now `number`; {tail}",
        f"base.yaml:13: `each` is now `elementwise`; {tail}",
        f"base.yaml:10: `primer` is now `synthetic-sft`; {tail}",
    ]
    text = BASE.replace("stage: 0", "number: 0").replace("primer", "synthetic-sft").replace("each:", "elementwise:")
    (tmp_path / "base.yaml").write_text(text)
    assert open_chain(str(tmp_path / "base.yaml"), "laptop", None).recipe == old
    assert capsys.readouterr().err == ""


def test_a_document_is_not_warned_about_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Document(document(tmp_path, NESTED))
    made.rename(Outer)
    made.rename(Outer)
    assert len(capsys.readouterr().err.splitlines()) == 5


def test_a_change_with_an_old_key_replaces_the_value_of_the_new_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in an ablation that somebody keeps beside a recipe of the project."""
    (tmp_path / "mine.yaml").write_text(
        "name: mine\nextends: tiny\nchange:\n  grpo:\n    settings:\n      kl: 0.5\n      deepspeed: {save_behind: false}\n"
    )
    chain = open_chain(str(tmp_path / "mine.yaml"), "laptop", None)
    settings = chain.spec("grpo").settings
    assert settings["kl_coef"] == 0.5 and settings["deepspeed"]["async_save"] is False and "kl" not in settings
    tail = "the old name works until the next release"
    assert capsys.readouterr().err.splitlines() == [
        f"{tmp_path}/mine.yaml:6: `kl` is now `kl_coef`; {tail}",
        f"{tmp_path}/mine.yaml:7: `save_behind` is now `async_save`; {tail}",
    ]


def test_no_recipe_or_cluster_of_the_project_uses_an_old_name(capsys: pytest.CaptureFixture[str]) -> None:
    for path in sorted((ROOT / "recipes").rglob("*.yaml")):
        open_chain(str(path), "laptop", None)
    for path in sorted((ROOT / "slurm" / "clusters").glob("*.yaml")):
        open_chain("tiny", path.stem, None)
    assert capsys.readouterr().err == ""
