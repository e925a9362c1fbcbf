"""The launcher of `grpo`: what a plan says of a run that will learn little and of a reward whose models are missing."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from diagcot.jobs import OwnCodeError, UserError
from diagcot.jobs.environment import code
from diagcot.rewards import external
from diagcot.rewards.score import Reference
from launchers import own_files
from launchers.chain import Chain, open_chain
from launchers.cot import collect
from launchers.training import grpo
from tests.unit.training.test_cost import models

LAYOUT = "teaches the layout"


def notes_of(
    folder: Path, base: str, settings: dict[str, Any], cluster: str = "laptop", **inputs: list[str]
) -> list[str]:
    """The notes of stage `grpo` of a recipe with other settings and inputs."""
    change = {"settings": settings} | ({"inputs": inputs} if inputs else {})
    (folder / "mine.yaml").write_text(yaml.safe_dump({"name": "mine", "extends": base, "change": {"grpo": change}}))
    chain = open_chain(str(folder / "mine.yaml"), cluster, None)
    return grpo.notes(chain.stage("grpo"), chain)


@pytest.mark.parametrize(
    ("model", "taught"),
    [("cot-sft", True), ("base", False), ("teacher", False), ("align", False), ("plain-sft", False)],
)
def test_a_model_that_never_saw_the_layout_is_told(tmp_path: Path, model: str, taught: bool) -> None:
    """In `tiny` only the chains of thought teach it."""
    found = notes_of(tmp_path, "tiny", {}, model=[model], shards=["shard"])
    assert [LAYOUT in line for line in found] == ([] if taught else [True])
    for change in ({"format_instruction": True}, {"reasoning": "none"}, {"reward": {"mode": "whole"}}):
        assert not notes_of(tmp_path, "tiny", change, model=[model], shards=["shard"])


def test_answers_that_are_too_short_or_too_equal_are_told(tmp_path: Path) -> None:
    assert notes_of(tmp_path, "diagcot-7b", {}) == []
    (short,) = notes_of(tmp_path, "diagcot-7b", {"max_tokens": 512})
    assert "max_tokens 512 cuts most answers" in short and "740" in short
    assert notes_of(tmp_path, "tiny", {"max_tokens": 64}) == []  # a tiny model writes what its recipe taught it
    (cold,) = notes_of(tmp_path, "tiny", {"temperature": 0.1})
    assert "at temperature 0.1 the 8 answers of a group hardly differ" in cold


def test_the_plan_says_how_many_sequences_follow_from_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models(tmp_path, monkeypatch)
    (said,) = notes_of(tmp_path, "diagcot-7b", {}, "example")
    # (0.6 x 80 - 16.6 - 5) GB of cache, 2 x 28 layers x 4 heads x 128 x 2 bytes a token, 2,560 tokens a sequence
    assert said == "grpo: max_num_seqs follows from the GPUs' memory: 176 on GPUs of 80 GB (cache 26 GB, 57 kB a token)"
    (collected,) = (line for line in _notes_of_collect(tmp_path) if "max_num_seqs" in line)
    assert "on GPUs of 80 GB" in collected
    assert notes_of(tmp_path, "diagcot-7b", {}, "laptop") == []


def _notes_of_collect(folder: Path) -> list[str]:
    chain = open_chain(str(folder / "mine.yaml"), "example", None)
    return collect.notes(chain.stage("cot"), chain)


def test_a_reward_whose_models_are_missing_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("READERS_DIR", str(tmp_path))
    settings = {
        "reward": {"components": {"plain": 0.5, "radgraph": 0.3, "judge": 0.2}},
        "reward_models": {"weights": "$READERS_DIR", "device": "cuda"},
    }
    with pytest.raises(UserError) as refused:
        checked(tmp_path, settings)
    for said in (
        "stage grpo: the reward's components lack their models: ",
        f"radgraph: no folder {tmp_path}/radgraph",
        "judge: give the stage the input `judge`",
    ):
        assert said in str(refused.value)
    settings["reward"] = {"components": {"judge": 1.0}}
    with pytest.raises(UserError, match=r"reward_models\.device is cuda, and the cluster gives it no GPU"):
        checked(tmp_path, settings, judge=["base"])
    settings["reward_models"] = {}
    checked(tmp_path, settings, judge=["base"])


def checked(folder: Path, settings: dict[str, Any], **inputs: list[str]) -> None:
    """The check of stage `grpo` of `tiny` with other settings and further inputs."""
    path = folder / "mine.yaml"
    inputs = {"model": ["cot-sft"], "shards": ["shard"], **inputs}
    path.write_text(
        yaml.safe_dump(
            {"name": "mine", "extends": "tiny", "change": {"grpo": {"settings": settings, "inputs": inputs}}}
        )
    )
    chain = open_chain(str(path), "laptop", None)
    chain.check("grpo")


def chain_with(folder: Path, body: str) -> Chain:
    """Recipe `tiny` with a reward of the user's own."""
    (folder / "mine.py").write_text(body)
    reward = {"name": f"{folder}/mine.py:score", "style": "trl", "mode": ""}
    change = {"grpo": {"settings": {"reward": reward}}}
    (folder / "own.yaml").write_text(yaml.safe_dump({"name": "own", "extends": "tiny", "change": change}))
    return open_chain(str(folder / "own.yaml"), "laptop", None)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("import no_such_package\ndef score(completions, **rest): return [0] * len(completions)", "no_such_package"),
        ("def other(): ...", "has no function 'score'"),
        ("def score(completions, **rest): return [1.0]", "returned 1 numbers for 2 answers"),
        ("def score(completions, **rest):\n    return [len(c.missing) for c in completions]", "mine.py:2: fix it"),
        ("import os\ndef score(completions, **rest): os._exit(4)", "ends the process that calls it"),
    ],
)
def test_a_reward_of_the_users_own_is_called_when_it_is_planned(tmp_path: Path, body: str, said: str) -> None:
    chain = chain_with(tmp_path, body)
    with pytest.raises(OwnCodeError, match=said):
        grpo.check(chain.stage("grpo"), chain)


def test_an_own_component_of_a_reward_is_called_when_it_is_planned(tmp_path: Path) -> None:
    """Its path is relative, and begins in the folder of the recipe."""
    (tmp_path / "mine.py").write_text("def score(completions, **rest): return [completions[0].missing]")
    change = {"grpo": {"settings": {"reward": {"components": {"plain": 0.5, "mine.py:score": 0.5}}}}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"name": "own", "extends": "tiny", "change": change}))
    chain = open_chain(str(tmp_path / "own.yaml"), "laptop", None)
    assert tmp_path / "mine.py" in chain.code
    with pytest.raises(OwnCodeError, match=rf"the reward {tmp_path}/mine.py:score raised AttributeError"):
        chain.check("grpo")
    moved = own_files.moved(yaml.safe_load(chain.document.text), "/there")
    (stage,) = (stage for stage in moved["stages"] if stage["name"] == "grpo")
    assert stage["settings"]["reward"]["components"] == {"plain": 0.5, "/there/mine.py:score": 0.5}


def test_jobs_use_the_reward_as_it_was_at_submission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = chain_with(tmp_path, "def score(completions, **rest): return [0.25] * len(completions)")
    grpo.check(chain.stage("grpo"), chain)
    assert tmp_path / "mine.py" in chain.code
    snapshot = tmp_path / "snapshot"
    code.snapshot([tmp_path / "mine.py"], snapshot)
    (tmp_path / "mine.py").write_text("def score(completions, **rest): return [0.750] * len(completions)")
    reward = chain.stage("grpo").settings.reward
    given = [Reference("Edema")]
    assert external.load(reward.name, reward.style)(["a"], given) == [{"overall": 0.75}]
    monkeypatch.setenv(code.VARIABLE, str(snapshot))
    assert external.load(reward.name, reward.style)(["a"], given) == [{"overall": 0.25}]


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text("")
    rewards = {name: {"name": f"{tmp_path}/{name}/mine.py:score"} for name in ("a", "b")}
    with pytest.raises(UserError, match="have the same name: rename one"):
        own_files.of_stages([{"rewards": rewards}])
