"""A study composed of a recipe, its arms and seeds: what is shared, what is left out, and where faults are told."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from diagcot.cli.main import main
from diagcot.jobs import Plan, UserError
from diagcot.jobs.plans.plan import read
from diagcot.recipe import find
from launchers.chain import ROOT, chain_on, settings_model
from launchers.composition import check_claims, compose

BASE = """\
name: mine
seed: 3
stages:
  - {name: phantoms, kind: phantoms, number: 0, settings: {studies: 8}}
  - {name: shard, kind: shard, number: 0, inputs: {tree: phantoms}, settings: {sources: [{kind: mimic_cxr, input: tree}]}}
  - {name: base, kind: model, number: 1, inputs: {shards: shard}}
  - name: align
    kind: align
    number: 1
    inputs: {model: base, shards: shard}
    settings: {deepspeed: {steps: 5, global_batch: 8}}
  - name: tuned
    kind: sft
    number: 2
    inputs: {model: align, shards: shard}
    settings: {trainable: [merger], deepspeed: {steps: 5, global_batch: 8}}
  - {name: unused, kind: model, number: 1, inputs: {shards: shard}}
  - {name: evaluate, kind: evaluate, number: eval, inputs: {models: [base, tuned], shards: shard}}
  - {name: retrieval, kind: retrieval, number: eval, inputs: {models: [base], shards: shard}}
  - {name: table, kind: aggregate, number: eval, inputs: {predictions: [evaluate, retrieval]}}
claims:
  - {text: Alignment helps., column: retrieval_recall_1, better: align, than: base}
"""
NO_ALIGN = """\
name: no-align
extends: study/mine
drop: [align]
change: {tuned: {inputs: {model: base}}}
claims:
  - {text: It helps later., column: bleu4, better: tuned, than: tuned-no-align}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    arms = tmp_path / "recipes" / "study" / "mine"
    arms.mkdir(parents=True)
    arms.with_suffix(".yaml").write_text(BASE)
    (arms / "no-align.yaml").write_text(NO_ALIGN)
    return tmp_path


def stages(root: Path, *seeds: int) -> dict[str, Any]:
    recipe, _ = compose("mine", seeds, root)
    return {spec.name: spec for spec in recipe.stages}


def test_an_arm_adds_the_stages_that_it_changes_and_shares_the_others(root: Path) -> None:
    found = stages(root, 7)
    trained = ["phantoms-7", "shard-7", "base-7", "align-7", "tuned-7", "tuned-no-align-7"]
    assert list(found) == [*trained, "evaluate-7", "retrieval-7", "study"]
    assert found["tuned-no-align-7"].inputs == {"model": ["base-7"], "shards": ["shard-7"]}
    assert found["tuned-7"].inputs["model"] == ["align-7"]
    assert found["evaluate-7"].inputs["models"] == ["tuned-7", "tuned-no-align-7"]  # only what a claim compares
    assert found["retrieval-7"].inputs == {"models": ["base-7", "align-7"], "shards": ["shard-7"]}


def test_every_seed_has_its_own_stages_and_one_stage_reads_all(root: Path) -> None:
    found = stages(root, 7, 8)
    assert {name: spec.seed for name, spec in found.items() if spec.seed} == {
        name: int(name[-1]) for name in found if name != "study"
    }
    study = found["study"]
    assert study.inputs == {"predictions": ["evaluate-7", "retrieval-7", "evaluate-8", "retrieval-8"]}
    assert study.settings["seeds"] == [7, 8]
    assert [(claim["better"], claim["than"]) for claim in study.settings["claims"]] == [
        ("align", "base"),
        ("tuned", "tuned-no-align"),
    ]
    chain = chain_on(*compose("mine", (7, 8), root), "laptop", None)
    assert {plan.stage: plan.seed for plan in chain.plans if plan.stage != "study"} == {
        name: int(name[-1]) for name in found if name != "study"
    }
    (root / "kept.yaml").write_text(chain.document.text)
    assert yaml.safe_load(chain.document.text)["stages"][0]["seed"] == 7


def test_a_run_takes_up_a_further_seed_and_a_further_claim(root: Path) -> None:
    roots = {name: str(root / name) for name in ("logs", "shards", "models")}
    sizes: dict[str, Any] = {name: {} for name in ("cpu", "small", "server", "train")}
    cluster = {"name": "here", "executor": "debug", "roots": roots, "resource_profiles": sizes}
    (root / "here.yaml").write_text(json.dumps(cluster))

    def write(*seeds: int) -> dict[str, Plan]:
        return {
            plan.stage: read(plan.path)
            for plan in chain_on(*compose("mine", seeds, root), str(root / "here.yaml"), None).write()
        }

    first, more = write(7), write(7, 8)
    assert set(more) - set(first) == {name.replace("-7", "-8") for name in first if name != "study"}
    assert len(first["study"].keys) == 1 and len(more["study"].keys) == 2 and more["study"].open_tasks() == [1]
    path = root / "recipes" / "study" / "mine" / "no-align.yaml"
    path.write_text(NO_ALIGN + "  - {text: Tuning helps., column: bleu4, better: tuned-no-align, than: base}\n")
    claimed = write(7, 8)
    assert claimed["evaluate-7"].keys[-2:] == ["base-7.report.shard-7.00000", "base-7.grounding.shard-7.00000"]
    assert len(claimed["study"].keys) == 3 and set(claimed) == set(more)


def test_equal_variants_of_two_arms_are_one_model(root: Path) -> None:
    arms = root / "recipes" / "study" / "mine"
    (arms / "twin.yaml").write_text(
        NO_ALIGN.replace("name: no-align", "name: twin").replace("tuned-no-", "tuned-twin@")
    )
    text = (arms / "twin.yaml").read_text().replace("tuned-twin@align", "tuned-twin")
    (arms / "twin.yaml").write_text(text)
    recipe, _ = compose("mine", (7,), root)
    assert [spec.name for spec in recipe.stages if spec.kind == "sft"] == ["tuned-7", "tuned-no-align-7"]
    assert recipe.stages[-1].settings["claims"][-1]["than"] == "tuned-no-align"
    assert recipe.stages[-3].inputs["models"] == ["tuned-7", "tuned-no-align-7"]


def test_an_arm_that_is_evaluated_otherwise_has_an_evaluation_of_its_own(root: Path) -> None:
    arm = NO_ALIGN.replace("{model: base}}}", "{model: base}}, evaluate: {settings: {views: study}}}")
    (root / "recipes" / "study" / "mine" / "no-align.yaml").write_text(arm)
    found = stages(root, 7)
    assert found["evaluate-7"].inputs["models"] == ["tuned-7"]
    assert found["evaluate-no-align-7"].inputs["models"] == ["tuned-no-align-7"]
    assert found["evaluate-no-align-7"].settings == {"views": "study"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "tuned-no-align}",
            "tuned-no-aling}",
            r"no-align.yaml:6: the study has no model 'tuned-no-aling'; did you mean",
        ),
        ("bleu4", "blue4", r"no-align.yaml:6: the study has no score 'blue4'; did you mean 'bleu"),
        ("bleu4", "open_f1", r"no-align.yaml:6: open_f1 needs answers to open, which no stage of the study evaluates"),
        ("tuned-no-align}", "tuned}", r"no-align.yaml:6: tuned and tuned are one model: the arm changes nothing"),
        ("column:", "colum:", r"no-align.yaml:6: unknown key 'colum'; did you mean 'column'\?"),
        ("{model: base}", "{model: bas}", r"reads 'bas', which is not an earlier stage"),
    ],
)
def test_faults_are_told_where_they_stand(root: Path, old: str, new: str, said: str) -> None:
    path = root / "recipes" / "study" / "mine" / "no-align.yaml"
    path.write_text(NO_ALIGN.replace(old, new))
    with pytest.raises(UserError, match=said):
        compose("mine", (7,), root)
    with pytest.raises(UserError, match=said):  # and the plan of the arm alone
        check_claims(*find(str(path), root, settings_model), root)


def test_the_plan_of_a_recipe_checks_its_claims(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = root / "recipes" / "study" / "mine.yaml"
    for path in (study, root / "recipes" / "study" / "mine" / "no-align.yaml"):
        check_claims(*find(str(path), root, settings_model), root)
    elsewhere = root / "elsewhere.yaml"
    elsewhere.write_text(BASE)
    assert main(["plan", "--recipe", str(elsewhere)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    line = 1 + BASE.splitlines().index("claims:")
    assert re.search(
        rf"! {elsewhere}:({line}|{line + 1}): no study has these claims: `make study` reads recipes/study/", said
    )


def test_a_wrong_setting_of_an_arm_is_told_in_its_file(root: Path) -> None:
    arm = NO_ALIGN.replace("{model: base}}}", "{model: base}, settings: {max_lenght: 9}}}")
    (root / "recipes" / "study" / "mine" / "no-align.yaml").write_text(arm)
    with pytest.raises(UserError, match=r"no-align.yaml:4: unknown key 'max_lenght'; did you mean 'max_length'\?"):
        chain_on(*compose("mine", (7,), root), "laptop", None).plans  # noqa: B018
    with pytest.raises(UserError, match=r"there is no study 'mien'; did you mean 'mine'\?"):
        compose("mien", (7,), root)


@pytest.mark.parametrize("half", ["diagcot", "cx-mind"])
def test_the_studies_of_the_project_plan(half: str) -> None:
    chain = chain_on(*compose(half, (7, 8, 9), ROOT), "laptop", None)
    plans = {plan.stage: plan for plan in chain.plans}
    claims = plans["study"].settings["claims"]
    arms = {path.stem for path in (ROOT / "recipes" / "study" / half).glob("*.yaml")}
    named = {name for claim in claims for name in (claim["better"], claim["than"])}
    assert {f"{name}-{seed}" for name in named for seed in (7, 8, 9)} <= set(plans)
    assert all(any(name.endswith(arm) for name in named) for arm in arms)  # every arm decides something
