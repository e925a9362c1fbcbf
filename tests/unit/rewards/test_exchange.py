"""Exported rewards in other trainers, and external rewards in ours."""

import importlib.util
import pickle
from functools import partial
from pathlib import Path

import pytest
from pydantic import ValidationError

from diagcot.jobs import UserError
from diagcot.rewards import easyr1, registry
from diagcot.rewards import trl as for_trl
from diagcot.rewards.score import Reference
from diagcot.tasks.prompts import classification_answer, reasoned
from diagcot.training.config.reward_settings import RewardSettings

TRUTH = classification_answer(["Edema"])
OUTPUTS = [
    reasoned("the left base is dense", TRUTH),
    reasoned("the left base is dense", classification_answer(["Fracture"])),
    "",
]
OURS = registry.reward("classification", "curriculum")(OUTPUTS, [Reference(TRUTH)] * 3)
PAIR = "<think>a</think><answer>A) ✅</answer>"


def as_easyr1_loads(file: str, function: str, **settings):
    """What EasyR1's reward manager does with `reward_function: file.py:function`."""
    spec = importlib.util.spec_from_file_location("custom_reward_fn", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return partial(getattr(module, function), **settings)


def test_easyr1_calls_our_rewards_in_both_its_forms():
    function = as_easyr1_loads(easyr1.__file__, "classification")
    assert function([{"response": text, "response_length": 3, "ground_truth": TRUTH} for text in OUTPUTS]) == OURS
    assert function(OUTPUTS, [TRUTH] * 3) == OURS  # DiagCoT's copy: (predicts, ground_truths)
    late = as_easyr1_loads(easyr1.__file__, "classification", progress=1.0, mode="released")
    assert late(OUTPUTS[:1], [TRUTH]) == registry.reward("classification", "released")(OUTPUTS[:1], [Reference(TRUTH)])


def test_easyr1_gives_the_corpus_as_a_file(tmp_path):
    (tmp_path / "references.txt").write_text("the heart is large .\nthe lungs are clear .\n")
    function = as_easyr1_loads(easyr1.__file__, "report", corpus=str(tmp_path / "references.txt"))
    output = reasoned("the left base is dense", "the heart is large .")
    (score,) = function([{"response": output, "response_length": 9, "ground_truth": "the heart is large ."}])
    assert score["overall"] == pytest.approx(1, abs=1e-6)


def test_conversations_and_a_gate_of_its_own():
    talk = [[{"role": "assistant", "content": PAIR}]]
    function = for_trl.reward("closed", "released")
    base = registry.reward("closed", "released")([PAIR], [Reference(PAIR)])[0]
    assert function(prompts=["p"], completions=talk, solution=[PAIR]) == [base["overall"] + 0.5 + base["reason"]]
    wrong = function(prompts=["p"], completions=[PAIR.replace("A)", "B)")], solution=[PAIR])
    assert wrong == [pytest.approx(0.1)]  # less accurate than before: gated
    with pytest.raises(ValueError, match="column"):
        function(prompts=["p"], completions=talk)


THEIRS = """
def trl(completions, answer, trainer_state=None, **_):
    return [1.0 if a in c else None for c, a in zip(completions, answer)]
def messages(prompts, completions, solution, **_):
    return [float(s in c[0]["content"] and p == []) for p, c, s in zip(prompts, completions, solution)]
async def later(completions, answer, **_):
    return [float(a in c) for c, a in zip(completions, answer)]
def new(reward_inputs):
    return [{"overall": float(r["ground_truth"] in r["response"]), "format": 1.0, "accuracy": None} for r in reward_inputs]
def old(predicts, ground_truths, weight=0.5):
    return [{"overall": weight * (g in p)} for p, g in zip(predicts, ground_truths)]
def short(reward_inputs):
    return []
def broken(reward_inputs):
    return [{"overall": float("nan")}] * len(reward_inputs)
"""


@pytest.fixture
def theirs(tmp_path):
    (tmp_path / "theirs.py").write_text(THEIRS)
    single = (
        'REWARD_TYPE = "sequential"\ndef one(reward_input):\n    return {"overall": len(reward_input["response"])}\n'
    )
    (tmp_path / "single.py").write_text(single + 'def two(response, truth):\n    return {"overall": len(truth)}\n')
    return tmp_path


@pytest.mark.parametrize(
    ("name", "style", "values"),
    [
        ("theirs.py:trl", "trl", [1, 0]),
        ("theirs.py:messages", "trl_messages", [1, 0]),
        ("theirs.py:later", "trl", [1, 0]),
        ("theirs.py:new", "easyr1", [1, 0]),
        ("theirs.py:old", "easyr1", [0.5, 0]),
        ("single.py:one", "easyr1", [3, 1]),
        ("single.py:two", "easyr1", [1, 1]),
    ],
)
def test_external_rewards(theirs, name, style, values):
    chosen = RewardSettings(name=str(theirs / name), style=style)
    reward = registry.reward(chosen.name, chosen.chosen_mode)
    for one in (reward, pickle.loads(pickle.dumps(reward))):
        scores = one(["yes", "n"], [Reference("y")] * 2, 0.5)
        assert [score["overall"] for score in scores] == values
    assert reward([], []) == []


def test_a_reward_that_trl_brings():
    trl = importlib.util.find_spec("trl")
    if trl is None:
        pytest.skip("trl is not installed")
    file = Path(trl.submodule_search_locations[0]) / "rewards" / "format_rewards.py"
    reward = registry.reward(f"{file}:think_format_reward", "trl_messages")
    scores = reward(["<think>a</think> b", "<think>a b"], [Reference("b")] * 2)
    assert [score["overall"] for score in scores] == [1, 0]


def test_an_exported_reward_loaded_back():
    """A reward that is exported to a trainer and loaded as an external one gives the same scores."""
    back = registry.reward(f"{for_trl.__file__}:classification", "trl")(OUTPUTS, [Reference(TRUTH)] * 3, 1.0)
    late = registry.reward("classification", "curriculum")(OUTPUTS, [Reference(TRUTH)] * 3, 1.0)
    assert [score["overall"] for score in back] == [score["overall"] for score in late]
    assert registry.reward(f"{easyr1.__file__}:classification", "easyr1")(OUTPUTS, [Reference(TRUTH)] * 3) == OURS


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.py:f", "no Python file"),
        ("theirs.py:missing", "no function 'missing'"),
        ("theirs.py:short", "returned 0 scores for 1 outputs"),
        ("theirs.py:broken", "without a finite"),
        ("fails.py:f", "cannot be loaded \\(NameError"),
    ],
)
def test_what_is_wrong_with_an_external_reward_is_one_sentence(theirs, name, message):
    (theirs / "fails.py").write_text("nothing\n")
    with pytest.raises(UserError, match=message) as error:
        registry.reward(str(theirs / name), "easyr1")(["x"], [Reference("y")])
    assert len(error.value.args) == 1 and str(error.value) == error.value.args[0] and ": " in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "x.py:f"}, "needs a style"),
        ({"name": "x.py:f", "style": "trl", "mode": "released"}, "no mode"),
        ({"name": "report", "style": "trl"}, "has no style"),
        ({"name": "x:f"}, "unknown reward"),
    ],
)
def test_settings_are_checked_when_planning(settings, message):
    with pytest.raises(ValidationError, match=message):
        RewardSettings(**settings)


def test_a_path_is_made_whole():
    chosen = RewardSettings(name="mine/reward.py:f", style="trl")
    assert chosen.name == f"{Path.cwd()}/mine/reward.py:f" and chosen.chosen_mode == "trl"
