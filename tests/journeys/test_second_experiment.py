"""The second day with the suite: an experiment on what a run has made, a new shell, and a typing error."""

from pathlib import Path

import pytest

from diagcot.cli.main import main
from diagcot.jobs import UserError
from launchers.chain import open_chain
from tests.journeys import small

DATA = small.RECIPE.partition("  - name: base")[0]
EXPERIMENT = """\
name: warmer
extends: small.yaml
drop: [phantoms, adapter, merged]
change:
  shard: {from: first/shard}
  tuned: {seed: 8, settings: {deepspeed: {learning_rate: 2.0e-3}}}
  retrieval: {inputs: {models: [base, tuned]}}
"""


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """The folder in which a run `first` has built shards."""
    small.run(tmp_path / "mine", "first", DATA)
    (tmp_path / "mine" / "small.yaml").write_text(small.RECIPE)
    return tmp_path / "mine"


def test_an_experiment_is_ten_lines_and_draws_no_image_again(first: Path) -> None:
    (first / "warmer.yaml").write_text(EXPERIMENT)
    assert len(EXPERIMENT.splitlines()) < 10
    chain = open_chain(str(first / "warmer.yaml"), str(first / "here.yaml"), None)
    assert [plan.stage for plan in chain.plans] == ["base", "tuned", "retrieval", "report"]
    plans = {plan.stage: plan for plan in chain.plans}
    assert (plans["base"].seed, plans["tuned"].seed) == (3, 8)  # only training has another seed
    assert plans["tuned"].settings["deepspeed"]["learning_rate"] == 2.0e-3
    assert plans["tuned"].inputs["shards"] == [str(first / "shards" / "warmer" / "shard")]
    assert chain.reused["shard"].plan.path == first / "logs" / "first" / "shard"


def test_a_new_shell_without_a_variable_is_told_its_name(
    first: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    again = DATA.replace("sources: [{kind: mimic_cxr, input: tree}]", "sources: [{kind: mimic_cxr, path: $MY_IMAGES}]")
    recipe = "\n".join(
        line for line in again.splitlines() if "tree: phantoms" not in line and "name: phantoms" not in line
    )
    (first / "again.yaml").write_text(recipe.replace("name: small", "name: again"))
    submit = ["submit", "--recipe", str(first / "again.yaml"), "--cluster", str(first / "here.yaml")]
    monkeypatch.setenv("MY_IMAGES", str(first / "shards" / "first" / "phantoms" / "tree"))
    assert main(submit) == 0
    assert main(submit) == 0  # a finished run, once more
    monkeypatch.delenv("MY_IMAGES")
    capsys.readouterr()
    assert main(submit) == 1
    said = capsys.readouterr().err
    assert "MY_IMAGES" in said and "is not set" in said and len(said) < 500 and "remove" not in said


def test_a_mistyped_stage_of_another_run_is_told_before_anything_runs(first: Path) -> None:
    (first / "warmer.yaml").write_text(EXPERIMENT.replace("first/shard", "first/shards"))
    with pytest.raises(UserError, match=r"warmer.yaml:5: run first has no stage 'shards'; did you mean 'shard'\?"):
        open_chain(str(first / "warmer.yaml"), str(first / "here.yaml"), None)
