"""A sweep composed of a recipe, values and seeds: what is shared, what is compared, and where mistakes are told."""

from pathlib import Path
from typing import Any

import pytest

from diagcot.jobs import UserError
from launchers.chain import ROOT, chain_on
from launchers.sweep import compose

RECIPE = """\
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
    settings: &same {deepspeed: &d {steps: 5, global_batch: 8, learning_rate: 1.0e-4}}
  - name: tuned
    kind: sft
    number: 2
    inputs: {model: align, shards: shard}
    settings: {trainable: [merger], deepspeed: *d}
  - {name: evaluate, kind: evaluate, number: eval, inputs: {models: [base, align, tuned], shards: shard}}
  - {name: table, kind: aggregate, number: eval, inputs: {predictions: evaluate}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "mine.yaml").write_text(RECIPE)
    return tmp_path / "mine.yaml"


def stages(recipe: Path, over: list[str], *seeds: int) -> dict[str, Any]:
    composed, document = compose(str(recipe), over, seeds, ROOT)
    assert chain_on(composed, document, "laptop", None).plans  # it can be planned
    return {spec.name: spec for spec in composed.stages}


def test_stages_before_the_swept_one_are_shared(recipe: Path) -> None:
    found = stages(recipe, ["tuned.deepspeed.learning_rate=1e-3,2e-3"], 7)
    tuned = ["tuned-learning_rate-1e-3-7", "tuned-learning_rate-2e-3-7"]
    assert list(found) == ["phantoms-7", "shard-7", "base-7", "align-7", *tuned, "evaluate-7", "sweep"]
    assert found["evaluate-7"].inputs["models"] == tuned  # no other model depends on the values
    rates = [float(found[name].settings["deepspeed"]["learning_rate"]) for name in tuned]
    assert rates == [1e-3, 2e-3]
    assert found["align-7"].settings["deepspeed"]["learning_rate"] == 1e-4  # which shares its mapping in the file
    assert [(row["model"], row["values"], row["stages"]) for row in found["sweep"].settings["rows"]] == [
        ("tuned", "learning_rate 1e-3", [tuned[0]]),
        ("tuned", "learning_rate 2e-3", [tuned[1]]),
    ]


def test_a_stage_of_another_run_is_the_same_for_every_value_and_seed(recipe: Path) -> None:
    taken = recipe.read_text().replace(
        "  - {name: base, kind: model, number: 1, inputs: {shards: shard}}", "  - {name: base, from: one/base}"
    )
    recipe.write_text(taken)
    composed, _ = compose(str(recipe), ["tuned.deepspeed.learning_rate=1e-3,2e-3"], [7, 8], ROOT)
    found = {spec.name: spec for spec in composed.stages}
    assert found["base"].source == "one/base" and found["align-8"].inputs["model"] == ["base"]


def test_own_metrics_of_the_table_are_columns_of_the_sweep_too(recipe: Path) -> None:
    own = "{name: mine.py:words, better: lower}"
    other = (
        "{name: mine.py:options, task: single, better: higher}"  # nothing answers it, which `sweep` does not evaluate
    )
    recipe.write_text(
        recipe.read_text().replace(
            "inputs: {predictions: evaluate}}",
            f"inputs: {{predictions: evaluate}}, settings: {{metrics: [{own}, {other}]}}}}",
        )
    )
    (recipe.parent / "mine.py").write_text(
        "def words(answers, **rest):\n    return [len(a.split()) for a in answers]\n"
    )
    composed, document = compose(str(recipe), ["tuned.deepspeed.learning_rate=1e-3,2e-3"], [7], ROOT)
    (table,) = (spec for spec in composed.stages if spec.kind == "sweep")
    assert table.settings["metrics"] == [{"name": f"{recipe.parent}/mine.py:words", "better": "lower"}]
    chain = chain_on(composed, document, "laptop", None)
    chain.check("sweep")
    assert recipe.parent / "mine.py" in chain.code
    (recipe.parent / "mine.py").write_text("def words(answers, **rest): raise KeyError\n")
    with pytest.raises(UserError, match="raised KeyError"):
        chain.check("sweep")


def test_values_of_several_settings_are_combined_and_the_recipes_own_is_its_stage(recipe: Path) -> None:
    found = stages(recipe, ["align.deepspeed.steps=5,9", "tuned.deepspeed.steps=5,6"], 7, 8)
    rows = found["sweep"].settings["rows"]
    assert len(rows) == 8 and {row["model"] for row in rows} == {"align", "tuned"}
    assert rows[0]["stages"] == ["align-7", "align-8"]  # the recipe's own value
    assert len([name for name in found if name.startswith("tuned") and name.endswith("-7")]) == 4
    assert found["sweep"].settings["seeds"] == [7, 8]


def test_a_stage_with_a_seed_of_its_own_is_the_same_for_every_seed(recipe: Path) -> None:
    recipe.write_text(
        RECIPE.replace("kind: phantoms,", "kind: phantoms, seed: 1,").replace("kind: shard,", "kind: shard, seed: 1,")
    )
    found = stages(recipe, ["tuned.deepspeed.steps=5,6"], 7, 8)
    assert [name for name in found if "phantoms" in name or "shard" in name] == ["phantoms", "shard"]
    assert found["align-8"].inputs["shards"] == ["shard"]


@pytest.mark.parametrize(
    ("over", "said"),
    [
        (
            "tund.deepspeed.steps=5,6",
            r"'tund.deepspeed.steps=5,6' names no stage of recipe mine; did you mean 'tuned'\?",
        ),
        ("tuned.deepspeed.steps", "must be a stage, a key of its settings and values"),
        ("tuned.deepspeed.steps=&a [*a]", "an alias .* stands inside what it stands for"),
        ("tuned.deepspeed.steps=", "must be a stage, a key of its settings and values"),
        ("tuned.=1,2", "must be a stage, a key of its settings and values"),
        ("tuned.deepspeed.steps=5,5", "gives a value twice"),
        ("tuned.deepspeed.steps=5,5.0", "gives a value twice"),
        ("tuned.deepspeed.learning_rate=0.0001,1e-4", "gives a value twice"),
        ("evaluate.draws=1,2", "all models of a sweep are evaluated alike"),
        ("tuned.deepspeed.step=5,6", r"mine.yaml:\d+: unknown key 'step'"),
        ("tuned.deepspeed.steps=five,6", r"mine.yaml:\d+: deepspeed.steps: must be a whole number, is 'five'"),
    ],
)
def test_mistakes_are_named(recipe: Path, over: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        stages(recipe, [over], 7)


def test_one_setting_in_two_options_is_refused(recipe: Path) -> None:
    """The second would win, and the table would name both."""
    for second in ("tuned.deepspeed.steps=7", "tuned.deepspeed={steps: 7}"):
        with pytest.raises(UserError, match="two options change one setting"):
            stages(recipe, ["tuned.deepspeed.steps=5,6", second], 7)


def test_values_whose_names_fall_together_are_all_trained(recipe: Path) -> None:
    composed, _ = compose(str(recipe), ["base.pretrained=/tmp/m/a,/tmp/m-a,/tmp/m a"], [7], ROOT)
    paths = ("/tmp/m/a", "/tmp/m-a", "/tmp/m a")
    assert sorted(spec.settings["pretrained"] for spec in composed.stages if "pretrained" in spec.settings) == sorted(
        paths
    )
    table = next(spec for spec in composed.stages if spec.name == "sweep")
    assert {row["values"] for row in table.settings["rows"]} == {f"pretrained {path}" for path in paths}


def test_a_setting_that_no_evaluated_model_depends_on_is_refused(recipe: Path) -> None:
    recipe.write_text(RECIPE.replace("models: [base, align, tuned]", "models: [align]"))
    with pytest.raises(UserError, match="no evaluated model depends on these settings"):
        stages(recipe, ["tuned.deepspeed.steps=5,6"], 7)
