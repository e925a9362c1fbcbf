"""Exported rewards in other trainers, and external rewards in ours."""

import importlib.util
import io
import pickle
import traceback
from functools import partial
from pathlib import Path

import pytest
from pydantic import ValidationError

from diagcot.jobs import OwnCodeError
from diagcot.rewards import easyr1, external, registry, trial
from diagcot.rewards import trl as for_trl
from diagcot.rewards.external import RolloutFacts
from diagcot.rewards.score import Reference
from diagcot.tasks.prompts import classification_answer, reasoned
from diagcot.training.config.reward_settings import RewardSettings
from diagcot.training.reward_models.plain import Output, PlainRewards

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
def bare(reward_inputs):
    return [{"format": 1.0}] * len(reward_inputs)
def words(reward_inputs):
    return [{"overall": "good"}] * len(reward_inputs)
def ends(reward_inputs):
    raise SystemExit
def quotes(reward_inputs):
    raise ValueError(f"cannot read {reward_inputs[0]['response']}")
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


CALLED = """
import importlib.util, pathlib
SEEN = []
def told(**columns):
    columns["log_metric"]("length", 1.0)
    columns["log_extra"]("note", ["a"])
    SEEN.append(columns)
    return [0.0] * len(columns["completions"])
def reads_ids(completions, completion_ids, **columns):
    return [len(ids) for ids in completion_ids]
"""


def rollouts(count):
    """What is told of `count` rollouts of one prompt with an image of 8 x 6 pixels; rollout n has n tokens."""
    from PIL import Image

    data = io.BytesIO()
    Image.new("L", (8, 6), 255).save(data, "JPEG")
    prompt = [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Look."}]},
    ]
    columns = {"side": "left", "answer": "never the reference", "completions": "never the reply"}
    return [RolloutFacts(prompt, (data.getvalue(),), tuple(range(n)), columns) for n in range(count)]


@pytest.mark.parametrize("style", ["trl", "trl_messages"])
def test_a_reward_of_trl_gets_all_that_trl_gives(tmp_path, style):
    """The names of trl/trainer/grpo_trainer.py, `_calculate_rewards`, and prompts as `prepare_multimodal_messages` makes them."""
    (tmp_path / "called.py").write_text(CALLED)
    reward = external.load(f"{tmp_path}/called.py:told", style)
    reward(["a", "b"], [Reference("x"), Reference("y")], 0.5, rollouts(2))
    (seen,) = reward._score.__globals__["SEEN"]
    assert seen["completion_ids"] == [[], [0]] and seen["side"] == ["left", "left"]
    assert seen["answer"] == seen["solution"] == ["x", "y"]
    assert seen["trainer_state"].global_step / seen["trainer_state"].max_steps == 0.5
    assert [[image.size for image in own] for own in seen["images"]] == [[(8, 6)], [(8, 6)]]
    assert seen["image"][1] is seen["images"][1][0]
    if style == "trl":
        assert seen["completions"] == ["a", "b"] and seen["prompts"] == ["Be brief.\nLook."] * 2
        return
    assert seen["completions"][1] == [{"role": "assistant", "content": "b"}]
    system, user = seen["prompts"][0]
    assert system == {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    assert user["content"] == [{"type": "image", "image": seen["images"][0][0]}, {"type": "text", "text": "Look."}]


def test_a_penalty_of_trl_reads_the_ids_of_the_reply(tmp_path):
    trl = importlib.util.find_spec("trl")
    if trl is None:
        pytest.skip("trl is not installed")
    theirs = Path(trl.submodule_search_locations[0]) / "rewards" / "other_rewards.py"
    (tmp_path / "penalty.py").write_text(
        f"import runpy\npenalty = runpy.run_path({str(theirs)!r})['get_repetition_penalty_reward'](2, -1.0)\n"
    )
    reward = external.load(f"{tmp_path}/penalty.py:penalty", "trl")
    facts = [RolloutFacts(tokens=(1, 2, 3, 4)), RolloutFacts(tokens=(5, 5, 5, 5, 5))]
    scores = reward(["a", "b"], [Reference("x")] * 2, 0.0, facts)
    assert [score["overall"] for score in scores] == [0.0, -0.75]  # its own example


def test_rewards_of_a_stage_pass_on_what_is_told(tmp_path):
    (tmp_path / "called.py").write_text(
        CALLED + "def new(rows): return [{'overall': r['response_length']} for r in rows]"
    )
    for function, style in (("reads_ids", "trl"), ("new", "easyr1")):
        chosen = RewardSettings(name=f"{tmp_path}/called.py:{function}", style=style)
        plain = PlainRewards({"": chosen}, {"": [Reference("x")]})
        outputs = [Output("a", Reference("x"), facts=facts) for facts in rollouts(3)]
        assert [score["overall"] for score in plain.score("", outputs, 0.0)] == [0, 1, 2]
        trial.check(chosen.name, style, "report")  # with a prompt, an image and ids, as a plan calls it


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
        ("theirs.py:short", "returned 0 numbers for 1 answers"),
        ("theirs.py:broken", "missing or not finite"),
        ("theirs.py:bare", "missing or not finite"),
        ("theirs.py:words", "no number"),
        ("theirs.py:ends", r"raised SystemExit, .*theirs.py:\d+: fix it"),
        ("theirs.py:quotes", r"raised ValueError, .*theirs.py:\d+: fix it"),
        ("fails.py:f", r"cannot be loaded \(NameError, .*fails.py:1\)"),
        ("exits.py:f", r"cannot be loaded \(SystemExit, .*exits.py:1\)"),
        ("typo.py:f", r"cannot be loaded \(SyntaxError: .*typo.py, line 1"),
    ],
)
def test_what_is_wrong_with_an_external_reward_is_one_sentence(theirs, name, message):
    (theirs / "fails.py").write_text("nothing\n")
    (theirs / "exits.py").write_text("raise SystemExit(0)\n")
    (theirs / "typo.py").write_text("def f(:\n")
    reply = "a large heart"
    with pytest.raises(OwnCodeError, match=message) as error:
        registry.reward(str(theirs / name), "easyr1")([reply], [Reference("y")])
    # nor is the function's message in the traceback that a task writes into its log
    assert "large heart" not in "".join(traceback.format_exception(error.value))
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
