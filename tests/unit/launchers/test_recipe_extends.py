"""A recipe that extends another: what it drops and changes, and where its faults are told."""

from pathlib import Path

import pytest
import yaml

from diagcot.jobs import UserError
from launchers.chain import ROOT, open_chain

BASE = """\
name: base
seed: 3
stages:
  - {name: phantoms, kind: phantoms, number: 0, settings: {studies: 8}}
  - name: shard
    kind: shard
    number: 0
    inputs: {tree: phantoms}
    settings:
      sources: [{kind: mimic_cxr, input: tree}]
      shards: 3
  - {name: model, kind: model, number: 1, inputs: {shards: shard}}
  - name: align
    kind: align
    number: 1
    inputs: {model: model, shards: shard}
    settings:
      deepspeed: {steps: 5, global_batch: 8}
  - {name: evaluate, kind: evaluate, number: eval, inputs: {models: [model, align], shards: shard}}
"""


def extension(folder: Path, text: str) -> str:
    (folder / "base.yaml").write_text(BASE)
    (folder / "mine.yaml").write_text("name: mine\nextends: base.yaml\n" + text)
    return str(folder / "mine.yaml")


def test_dropped_and_changed(tmp_path: Path) -> None:
    path = extension(tmp_path, "drop: [align]\nchange:\n  shard: {settings: {shards: 5}}\n")
    chain = open_chain(path, "laptop", None)
    assert chain.run == "mine" and chain.recipe.seed == 3
    assert [plan.stage for plan in chain.plans] == ["phantoms", "shard", "model", "evaluate"]
    assert chain.spec("evaluate").inputs["models"] == ["model"]
    assert len(chain.units_of("shard")) == 5 and chain.spec("shard").settings["sources"][0]["kind"] == "mimic_cxr"
    (tmp_path / "whole.yaml").write_text(chain.document.text)  # what the run keeps is the whole recipe
    assert open_chain(str(tmp_path / "whole.yaml"), "laptop", None).recipe == chain.recipe


def test_a_change_gives_a_stage_a_seed_of_its_own_and_takes_a_role_away(tmp_path: Path) -> None:
    path = extension(tmp_path, "change:\n  model: {seed: 9, inputs: {shards: []}}\n")
    chain = open_chain(path, "laptop", None)
    assert (chain.spec("model").seed, chain.spec("model").inputs, chain.spec("shard").seed) == (9, {}, None)
    assert chain.spec("align").inputs == {"model": ["model"], "shards": ["shard"]}


def test_an_extension_may_be_extended(tmp_path: Path) -> None:
    extension(tmp_path, "change:\n  align: {settings: {deepspeed: {steps: 7}}}\n")
    (tmp_path / "more.yaml").write_text(
        "name: more\nseed: 9\nextends: mine.yaml\nchange: {align: {settings: {loss: combined}}}\n"
    )
    chain = open_chain(str(tmp_path / "more.yaml"), "laptop", None)
    settings = chain.spec("align").settings
    assert settings == {"deepspeed": {"steps": 7, "global_batch": 8}, "loss": "combined"} and chain.recipe.seed == 9


def test_another_seed_is_in_the_plans_and_in_the_recipe_that_the_run_keeps(tmp_path: Path) -> None:
    path = extension(tmp_path, "drop: [align]\n")
    chain = open_chain(path, "laptop", None, seed=8)
    assert chain.run == "mine-8" and chain.recipe.seed == 8 and {plan.seed for plan in chain.plans} == {8}
    (tmp_path / "kept.yaml").write_text(chain.document.text)
    assert open_chain(str(tmp_path / "kept.yaml"), "laptop", "mine-8").recipe == chain.recipe
    assert open_chain(path, "laptop", None).recipe.stages == chain.recipe.stages
    with pytest.raises(UserError, match=r"base.yaml:4: unknown kind 'phantom'"):
        (tmp_path / "base.yaml").write_text(BASE.replace("kind: phantoms", "kind: phantom", 1))
        open_chain(path, "laptop", None, seed=8).plans  # noqa: B018


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("drop: [algn]\n", r"mine.yaml:3: base.yaml has no stage 'algn'; did you mean 'align'\?"),
        ("change: {evalute: {}}\n", r"mine.yaml:3: .* did you mean 'evaluate'\?"),
        ("drop: [shard]\n", r"mine.yaml:3: stage 'model' reads 'shard' as shards and nothing else"),
        ("dropp: [align]\n", r"mine.yaml:3: unknown key 'dropp'; did you mean 'drop'\?"),
        ("change:\n  align: {kind: sft}\n", r"mine.yaml:4: unknown key 'kind'"),
        (
            "change:\n  align:\n    settings:\n      deepspeed:\n        step: 9\n",
            r"mine.yaml:7: unknown key 'step'; did you mean 'steps'\?",
        ),
        (
            "change: {align: {settings: {deepspeed: {epochs: 1}}}}\n",
            r"mine.yaml:3: deepspeed: .*either epochs or steps",
        ),
        ("change: {align: {inputs: {model: none}}}\n", r"reads 'none', which is not an earlier stage"),
    ],
)
def test_faults_are_told_where_they_stand(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        chain = open_chain(extension(tmp_path, text), "laptop", None)
        chain.plans  # noqa: B018


def test_a_fault_of_the_base_is_told_there(tmp_path: Path) -> None:
    path = extension(tmp_path, "drop: [evaluate]\n")
    (tmp_path / "base.yaml").write_text(BASE.replace("shards: 3", "shard: 3"))
    with pytest.raises(UserError, match=r"base.yaml:11: unknown key 'shard'"):
        open_chain(path, "laptop", None).plans  # noqa: B018
    (tmp_path / "base.yaml").write_text("name: base\nextends: mine.yaml\n")
    with pytest.raises(UserError, match=r"base.yaml:2: extends itself"):
        open_chain(path, "laptop", None)


@pytest.mark.parametrize("cluster", ["laptop", "example"])
def test_every_recipe_of_the_project_plans(cluster: str) -> None:
    """Names, edges and settings, and what the plan says of them; what the data lack is another question."""
    for path in sorted((ROOT / "recipes").rglob("*.yaml")):
        name = str(path.relative_to(ROOT / "recipes").with_suffix(""))
        chain = open_chain(name, cluster, None)
        assert chain.plans and yaml.safe_load(chain.document.text)["name"] == chain.recipe.name, name
        assert all(line.partition(":")[0] in {spec.name for spec in chain.recipe.stages} for line in chain.notes()), (
            name
        )


def test_one_prompt_set_for_all_stages_that_ask_a_model(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "set.yaml").write_text("name: mine\nversion: 1\ndescription: Mine.\nextends: default\n")
    (mine / "report.j2").write_text("<image>Report, please.\n")
    path = extension(tmp_path, f"prompt_set: {mine}\nchange:\n  align: {{settings: {{prompt_set: clean}}}}\n")
    chain = open_chain(path, "laptop", None)
    planned = {plan.stage: plan.settings for plan in chain.plans}
    assert planned["evaluate"]["prompt_set"] == str(mine) and planned["align"]["prompt_set"] == "clean"
    assert planned["evaluate"]["prompt_digest"] != planned["align"]["prompt_digest"]
    assert "prompt_set" not in planned["shard"] and mine in chain.code
    with pytest.raises(UserError, match=r"mine.yaml:\d+.*no prompt set in"):
        open_chain(extension(tmp_path, "change: {align: {settings: {prompt_set: nothing}}}\n"), "laptop", None).plans  # noqa: B018


def test_added_stages_stand_after_what_they_read(tmp_path: Path) -> None:
    path = extension(
        tmp_path,
        "add:\n"
        "  - {name: more, kind: align, number: 1, inputs: {model: align, shards: shard}, settings: {deepspeed: {steps: 2}}}\n"
        "change:\n  evaluate: {inputs: {models: [align, more]}}\n",
    )
    chain = open_chain(path, "laptop", None)
    assert [plan.stage for plan in chain.plans] == ["phantoms", "shard", "model", "align", "more", "evaluate"]
    (tmp_path / "whole.yaml").write_text(chain.document.text)
    assert open_chain(str(tmp_path / "whole.yaml"), "laptop", None).recipe == chain.recipe


@pytest.mark.parametrize(
    ("added", "said"),
    [
        ("{name: align, kind: align, number: 1}", r"mine.yaml:4: base.yaml has a stage 'align': `change` it"),
        ("{name: more, kind: align}", r"mine.yaml:4: number is missing"),
        ("{name: more, kind: aling, number: 1}", r"mine.yaml:4: unknown kind 'aling'; did you mean 'align'\?"),
        (
            "{name: more, kind: align, number: 1, inputs: {model: nowhere}}",
            r"mine.yaml:4: stage 'more' reads 'nowhere'",
        ),
        ("{name: more, kind: align, number: 1, settings: {los: lm}}", r"mine.yaml:4: unknown key 'los'"),
        ("{name: more, from: elsewhere}", r"mine.yaml:4: from must be run/stage, is 'elsewhere'"),
        ("{name: more, from: a/b, kind: align}", r"mine.yaml:4: `from` takes the product of another run, so `kind`"),
        ("{name: more, from: no-such-run/align}", r"mine.yaml:4: there is no run 'no-such-run'"),
    ],
)
def test_faults_of_added_stages(tmp_path: Path, added: str, said: str) -> None:
    path = extension(tmp_path, f"add:\n  - {added}\n")
    with pytest.raises(UserError, match=said):
        _ = open_chain(path, "laptop", None).plans
