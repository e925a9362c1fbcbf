"""Recipes become chains: edges, paths, element-wise packing, and one clear error for each mistake a person makes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from diagcot.jobs import UserError
from launchers import chain as chains
from launchers.chain import open_chain

ROOT = chains.ROOT
RECIPE = """\
name: mine
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
  - name: primer
    kind: synthetic-sft
    number: 1
    inputs: {shards: shard}
    elementwise: shards
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(RECIPE)
    return path


def test_edges_and_paths_come_from_the_inputs(recipe: Path) -> None:
    chain = open_chain(str(recipe), "laptop", "trial")
    plans = {plan.stage: plan for plan in chain.plans}
    assert [(e.stage, e.elementwise) for e in plans["primer"].after] == [("shard", True)]
    assert [(e.stage, e.elementwise) for e in plans["shard"].after] == [("phantoms", False)]
    assert plans["primer"].inputs == {"shards": [str(plans["shard"].output)]}
    assert plans["primer"].tasks == plans["shard"].tasks and len(plans["primer"].units) == 3
    assert chain.selected("0") == {"phantoms", "shard"} and len(chain.selected("all")) == 3


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "inputs: {shards: shard}",
            "inputs: {shards: phantoms}",
            r"mine\.yaml:16: stage primer reads phantoms as shards, and phantoms is of kind phantoms: shards are made by shard",
        ),
        (
            "inputs: {shards: shard}",
            "inputs: {shards: shard, shard: shard}",
            r"mine\.yaml:16: stage primer is of kind synthetic-sft, which reads no 'shard'; did you mean 'shards'\?",
        ),
        (
            "number: 0, settings",
            "number: 0, inputs: {model: base}, settings",
            r"mine\.yaml:5: stage phantoms is of kind phantoms, which reads no 'model'; it reads nothing",
        ),
    ],
)
def test_a_stage_reads_only_what_another_one_makes(recipe: Path, old: str, new: str, said: str) -> None:
    first = "stages:\n  - {name: base, kind: model, number: 1}\n"
    recipe.write_text(RECIPE.replace("stages:\n", first).replace(old, new))
    with pytest.raises(UserError, match=said):
        open_chain(str(recipe), "laptop", "trial").plans  # noqa: B018


def test_the_named_mixture_of_cx_mind_names_all_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    named = {
        "nih_cxr14": "NIH_CXR14_DIR", "chexpert": "CHEXPERT_DIR", "mimic_cxr": "MIMIC_CXR_DIR", "padchest": "PADCHEST_DIR",
        "rsna_pneumonia": "RSNA_DIR", "covidx_cxr3": "COVIDX_DIR", "ms_cxr": "MS_CXR_DIR", "mimic_nle": "MIMIC_NLE_DIR",
        "cxr_al14": "CXR_AL14_DIR", "radgraph": "RADGRAPH_DIR",
    }  # fmt: skip
    for variable in named.values():
        monkeypatch.delenv(variable, raising=False)
    chain = open_chain("mixtures/cx-set", "laptop", "trial")
    assert [source.kind for source in chain.stage("shard").settings.sources] == list(named)
    with pytest.raises(UserError) as caught:
        chain.check("shard")
    for kind, variable in named.items():
        assert f"{kind}: the variable in '${variable}' is not set" in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("shards: 3", "shard: 3", r"mine.yaml:11: unknown key 'shard'; did you mean 'shards'\?"),
        (
            "kind: synthetic-sft",
            "kind: syntetic-sft",
            r"mine.yaml:13: unknown kind 'syntetic-sft'; did you mean 'synthetic-sft'\?",
        ),
        ("shards: shard", "shards: shrad", r"reads 'shrad', which is not an earlier stage; did you mean 'shard'\?"),
        ("elementwise: shards", "elementwise: shard", r"elementwise: 'shard' is not one of its inputs"),
        ("name: primer", "name: shard", "two stages are named 'shard'"),
        ("seed: 3", "seeds: 3", r"mine.yaml:2: unknown key 'seeds'; did you mean 'seed'\?"),
        ("tree}]", "tree, transforms: [fy]}]", r"mine.yaml:10: .*unknown transform 'fy'; known: fi, "),
        (
            "primer\n    kind: synthetic-sft",
            "ask\n    kind: questions\n    settings: {wording: {binari: [x]}}",
            "unknown wording",
        ),
        ("studies: 8", "studies: many", r"mine.yaml:4: .*studies: must be a whole number"),
    ],
)
def test_a_mistake_in_a_recipe_is_told_with_its_line(recipe: Path, old: str, new: str, said: str) -> None:
    recipe.write_text(RECIPE.replace(old, new))
    with pytest.raises(UserError, match=said):
        _ = open_chain(str(recipe), "laptop", "trial").plans
    with pytest.raises(UserError, match=said):
        open_chain(str(recipe), "laptop", "trial").checks()


def test_a_model_trained_on_the_test_split_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        RECIPE
        + """\
  - {name: asked, kind: questions, number: 1, inputs: {shards: shard}, elementwise: shards, settings: {split: SPLIT}}
  - {name: model, kind: model, number: 1, inputs: {samples: asked}}
"""
    )
    path.write_text(path.read_text().replace("SPLIT", "test"))
    with pytest.raises(UserError, match=r"mine.yaml:18: stage model trains on asked, whose split is test"):
        open_chain(str(path), "laptop", "trial").checks()
    path.write_text(path.read_text().replace("split: test", "split: validate"))
    open_chain(str(path), "laptop", "trial").checks()


def test_unknown_names_offer_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown recipe 'tyni'.*'tiny'"):
        open_chain("tyni", "laptop", None)
    with pytest.raises(UserError, match=r"unknown cluster 'labtop'.*'laptop'"):
        open_chain("tiny", "labtop", None)
    with pytest.raises(UserError, match="RUN='a/b'"):
        open_chain("tiny", "laptop", "a/b")
    with pytest.raises(UserError, match="has no stage '9'; it has 0, 1, 2, 3, eval"):
        open_chain("tiny", "laptop", None).selected("9")


def test_the_run_keeps_the_code_of_its_submission(recipe: Path, tmp_path: Path) -> None:
    cluster = tmp_path / "here.yaml"
    roots = {name: str(tmp_path / name) for name in ("logs", "shards", "models")}
    size: dict[str, Any] = {"cpu": {}, "small": {}}
    cluster.write_text(json.dumps({"name": "here", "executor": "local", "roots": roots, "resource_profiles": size}))
    chain = open_chain(str(recipe), str(cluster), "trial")
    plan = chain.write()[0]
    assert (Path(plan.code) / "diagcot" / "jobs" / "execution" / "worker.py").exists()
    assert (chain.run_dir / "recipe.yaml").read_text() == RECIPE
    assert [p.stage for p in chain.write()] == ["phantoms", "shard", "primer"]  # the same plans again are no error
    recipe.write_text(RECIPE.replace("studies: 8", "studies: 9"))
    with pytest.raises(UserError, match=r"settings.studies: 8 in the run, 9 now"):
        open_chain(str(recipe), str(cluster), "trial").write()


def diagcot(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "importtime", "-m", "diagcot", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "arguments", [("--help",), ("submit", "--dry", "--recipe", "tiny"), ("status", "--logs", "tests")]
)
def test_commands_that_plan_or_watch_never_import_torch(arguments: tuple[str, ...]) -> None:
    done = diagcot(*arguments)
    modules = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "diagcot" in modules and not modules & {"torch", "vllm", "transformers", "ray", "deepspeed"}
    assert not modules & {"numpy", "h5py", "PIL", "scipy"}  # a login node reads them slowly too
    assert "Traceback" not in done.stderr


def test_a_mistake_shows_one_line_and_no_traceback() -> None:
    done = diagcot("submit", "--recipe", "nothing-like-it")
    said = [line for line in done.stderr.splitlines() if not line.startswith("import time")]
    assert done.returncode == 1 and len(said) == 1 and said[0].startswith("error: unknown recipe")


def test_the_table_compares_each_model_with_the_one_that_it_was_trained_from() -> None:
    units = {plan.stage: plan.units for plan in open_chain("tiny", "laptop", "trial").plans}
    starts = {"align": "base", "teacher": "base", "plain-sft": "align", "cot-sft": "align", "grpo": "cot-sft"}
    assert units["report"][0].params["starts"] == starts
    chosen = {plan.stage: plan.units for plan in open_chain("ablations/cx-curriculum-tiny", "laptop", "trial").plans}
    assert chosen["report"][0].params["starts"]["grpo-open"] == "open-alone"


def test_tasks_without_a_sample_are_told_by_the_plan(tmp_path: Path) -> None:
    shard = {"settings": {"sources": [{"kind": "iu_xray", "path": "data/iu_xray", "images": "$IU_XRAY_DIR"}]}}
    change = {"shard": shard | {"inputs": {}}, "cot-sft": {"settings": {"tasks": {"grounding": 0.2}}}}
    (tmp_path / "x.yaml").write_text(yaml.safe_dump({"name": "x", "extends": "tiny", "change": change}))
    said = [line for line in open_chain(str(tmp_path / "x.yaml"), "laptop", None).notes() if "no sample" in line]
    why = "no collection of its shards has boxes, so there will be no sample of task grounding"
    assert said == [f"{stage}: {why}" for stage in ("cot-sft", "plain-sft", "evaluate")]
    assert not [line for line in open_chain("tiny", "laptop", None).notes() if "no sample" in line]


@pytest.mark.parametrize(("stage", "settings"), [("cot-sft", {"tasks": {"reprot": 1}}), ("grpo", {"task": "reprot"})])
def test_an_unknown_task_is_told_by_the_plan(tmp_path: Path, stage: str, settings: dict[str, Any]) -> None:
    (tmp_path / "x.yaml").write_text(
        yaml.safe_dump({"name": "x", "extends": "tiny", "change": {stage: {"settings": settings}}})
    )
    with pytest.raises(UserError, match=r"x.yaml:\d+: tasks?.*: must be one of report, classification, grounding"):
        _ = open_chain(str(tmp_path / "x.yaml"), "laptop", None).plans
