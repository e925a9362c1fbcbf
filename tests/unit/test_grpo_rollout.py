"""GRPO without servers: settings, the choice of prompts, requests, and which GPUs an engine gets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from diagcot.data.samples import ImageRef, Sample
from diagcot.jobs.testing import context
from diagcot.serving import Reply
from diagcot.training import grpo, rollout
from diagcot.training.actors import devices, surroundings
from diagcot.training.grpo_settings import GrpoSettings

SAMPLE = Sample("d/s/i", "report", "d/s", (ImageRef("a.h5", 0),), (("user", "<image>Look."), ("assistant", "clear .")))


def test_the_defaults_are_those_of_diagcots_report_run():
    settings = GrpoSettings()
    assert (settings.prompts, settings.samples, settings.updates) == (4, 8, 4)
    assert (settings.kl, settings.temperature, settings.top_p) == (0.05, 0.9, 0.99)
    assert settings.reward.chosen_mode == "clinical" and settings.trainable == ("language_model",)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"split": "test"}, "test split"),
        ({"reward": {"name": "reprot"}}, "unknown reward"),
        ({"reward": {"name": "report", "mode": "matched"}}, "no mode"),
        ({"samples": 7}, "does not divide"),
        ({"samples": 1}, "greater than or equal to 2"),
        ({"temperature": 0}, "greater than 0"),
        ({"max_tokens": 4096}, "no room for a prompt"),
    ],
)
def test_settings_refuse(changes, says):
    deepspeed = {"global_batch": 8, "steps": 1}
    with pytest.raises(ValidationError, match=says):
        GrpoSettings.model_validate({"deepspeed": deepspeed, **changes})


@given(st.integers(1, 30), st.integers(1, 8), st.integers(0, 5))
def test_every_prompt_has_its_turn_once_an_epoch(count, per_step, seed):
    steps = -(-3 * count // per_step)
    stream = [index for step in range(steps) for index in rollout.choose(count, per_step, seed, step)]
    for epoch in range(3):
        assert sorted(stream[epoch * count : (epoch + 1) * count]) == list(range(count))
    assert rollout.choose(count, per_step, seed, 2) == stream[2 * per_step : 3 * per_step] or steps < 3


def test_requests_differ_by_step_and_prompt_and_ban_vision_tokens():
    def ask(step):
        return rollout.requests_of([SAMPLE, SAMPLE], lambda _: (b"jpeg",), GrpoSettings(), 7, step, [3, 4])

    first, again, other = ask(0), ask(0), ask(1)
    assert first == again
    assert len({request.seed for request in [*first, *other]}) == 4
    assert first[0].messages == SAMPLE.messages[:-1] and first[0].logit_bias == {3: -100.0, 4: -100.0}
    assert first[0].n == 8 and first[0].return_token_ids and first[0].logprobs == 0


def test_a_failed_rollout_is_named():
    with pytest.raises(RuntimeError, match=r"d/s/i.*too long"):
        rollout.rollouts_of([SAMPLE], [Reply(error="prompt too long")], 8)


def test_replies_become_groups():
    reply = Reply(
        texts=["a", "b"],
        finish=["stop", "length"],
        prompt_tokens=9,
        token_ids=[[5, 2], [6]],
        logprobs=[[-1.0, -2.0], [-3.0]],
    )
    one, two, _, _ = rollout.rollouts_of([SAMPLE, SAMPLE], [reply, reply], 2)
    assert (one.tokens, one.cut, two.tokens, two.cut, one.prompt_length) == ((5, 2), False, (6,), True, 9)


def test_gpus_of_a_node_are_shared_out():
    assert devices("4,5,6,7", 4, 1, 2) == ["6", "7"]
    assert devices(None, 2, 0, 1) == ["0", "1"]
    assert devices("3", 1, 1, 2) == ["3"]


def test_samples_of_the_test_split_are_refused(tmp_path):
    from dataclasses import replace

    from diagcot.data.samples import write_samples

    write_samples(tmp_path / "0.jsonl", [replace(SAMPLE, meta={"split": "test"})])
    ctx = context(tmp_path, inputs={"samples": [str(tmp_path)]})
    with pytest.raises(ValueError, match="evaluation only"):
        grpo.prompts_of(ctx, GrpoSettings())


def test_a_context_travels(tmp_path):
    import pickle

    from diagcot.jobs.context import Context

    around = pickle.loads(pickle.dumps(surroundings(context(tmp_path, rank=0, gpus=2))))
    assert Context(**around).gpus == 2
