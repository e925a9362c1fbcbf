"""GRPO without servers: settings, requests, replies, gates, pages, and which GPUs an engine gets."""

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from diagcot.jobs import UserError
from diagcot.jobs.testing import context
from diagcot.rewards.gate import Gate
from diagcot.serving import Reply
from diagcot.tasks.samples import ImageRef, Sample
from diagcot.training.config.grpo_settings import GrpoSettings, MixSettings
from diagcot.training.config.reward_settings import RewardSettings
from diagcot.training.monitoring.step_breakdown import StepBreakdown
from diagcot.training.rl import rollout, rollout_page, rollout_pool
from diagcot.training.rl.actors import context_fields, server_gpus
from diagcot.training.rl.rollout import Rollout, Sampling
from diagcot.training.rl.rollout_pool import RolloutBatch

SAMPLE = Sample("d/s/i", "report", "d/s", (ImageRef("a.h5", 0),), (("user", "<image>Look."), ("assistant", "clear .")))
SETTINGS = GrpoSettings()


def test_the_defaults_are_those_of_diagcots_report_run():
    settings = GrpoSettings()
    assert (settings.prompts_per_step, settings.group_size, settings.updates) == (4, 8, 4)
    assert (settings.kl_coef, settings.temperature, settings.top_p) == (0.05, 0.9, 0.99)
    assert settings.reward.chosen_mode == "clinical" and settings.trainable == ("language_model",)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"split": "test"}, "test split"),
        ({"reward": {"name": "reprot"}}, "unknown reward"),
        ({"reward": {"name": "report", "mode": "matched"}}, "no mode"),
        ({"group_size": 7}, "does not divide"),
        ({"group_size": 1}, "greater than or equal to 2"),
        ({"temperature": 0}, "greater than 0"),
        ({"max_tokens": 4096}, "no room for a prompt"),
        ({"importance_cap": 2.0, "top_p": 1.0}, "needs temperature 1"),
        ({"importance_cap": 2.0, "temperature": 1.0}, "needs temperature 1 and top_p 1"),
        ({"max_staleness": 2, "temperature": 1.0}, "set importance_cap"),
        ({"best": "reward"}, "needs validation.prompts"),
        ({"validation": {"prompts": 8, "split": "train"}}, "what the policy trains on"),
        ({"validation": {"prompts": 8, "split": "test"}}, "held_out"),
        ({"overlong": 2000}, "more than max_tokens"),
        ({"reasoning": "none", "format_instruction": True}, "replies without tags"),
    ],
)
def test_settings_refuse(changes, says):
    deepspeed = {"global_batch": 8, "steps": 1}
    with pytest.raises(ValidationError, match=says):
        GrpoSettings.model_validate({"deepspeed": deepspeed, **changes})


def test_the_old_key_of_rollouts_ahead_is_one_step():
    rest = {"importance_cap": 2.0, "temperature": 1.0, "top_p": 1.0, "deepspeed": {"global_batch": 8, "steps": 1}}
    for old, steps in ((True, 1), (False, 0)):
        assert GrpoSettings.model_validate({"async_rollouts": old, **rest}).max_staleness == steps


def test_requests_differ_by_step_and_prompt_and_ban_vision_tokens():
    def ask(step):
        sampling = Sampling(8, 100, 0.9, 0.99)
        return rollout.requests_of([SAMPLE, SAMPLE], lambda _: (b"jpeg",), sampling, f"7/{step}", [3, 4])

    first, again, other = ask(0), ask(0), ask(1)
    assert first == again
    assert len({request.seed for request in [*first, *other]}) == 4
    assert first[0].messages == SAMPLE.messages[:-1] and first[0].logit_bias == {3: -100.0, 4: -100.0}
    assert first[0].n == 8 and first[0].return_token_ids and first[0].logprobs == 0


def test_a_failed_rollout_is_named():
    with pytest.raises(RuntimeError, match=r"d/s/i.*too long"):
        rollout.group_of(0, SAMPLE, Reply(error="prompt too long"), 8)


def reply(*texts):
    return Reply(
        texts=list(texts),
        finish_reasons=["stop"] * (len(texts) - 1) + ["length"],
        prompt_tokens=9,
        token_ids=[[5, 2]] * len(texts),
        logprobs=[[-1.0, -2.0]] * len(texts),
    )


def test_replies_become_groups():
    one, two = rollout.group_of(3, SAMPLE, reply("a", "b"), 2)
    assert (one.prompt, one.tokens, one.cut, two.cut, one.prompt_length) == (3, (5, 2), False, True, 9)


class Scorer:
    """Answers prompts with equal rewards until they are asked for again."""

    def __init__(self):
        self.asked = []

    def roll_out(self, requests, outputs, progress):
        replies = [reply("a", "b") for _ in requests]
        items = [outputs(at, one) for at, one in enumerate(replies)]
        self.asked.append(items)
        fresh = len(self.asked) > 1
        scores = [[{"overall": 0.5}, {"overall": 0.5 + fresh * (at % 2)}] for at, _ in enumerate(requests)]
        return RolloutBatch(replies, scores, 1.0, 1.25)


def test_groups_of_equal_rewards_make_room_for_others_of_their_kind():
    from diagcot.training.rl import curriculum as curricula
    from diagcot.training.rl import rollout_collector

    settings = SETTINGS.model_copy(
        update={
            "prompts_per_step": 2,
            "group_size": 2,
            "max_resample_rounds": 2,
            "mix": MixSettings(start=0.5, end=0.5),
        }
    )
    prompts = [replace(SAMPLE, id=f"main/{n}", study=f"main/{n}") for n in range(9)]
    mixed = [replace(SAMPLE, id=f"mix/{n}", task="other") for n in range(9)]
    curriculum = curricula.Curriculum(settings, 7, 4, prompts, mixed, [])
    scorer: Any = Scorer()
    found = rollout_collector.RolloutCollector(scorer, settings, lambda _: (b"jpeg",), [], 7).step(0, curriculum)
    assert [len(asked) for asked in scorer.asked] == [2, 2, 1] and found.replaced == 3
    assert [sample.task for sample in found.samples] == ["report", "other"]
    assert [one.prompt for one in found.rollouts] == [0, 0, 1, 1] and found.waited_s == pytest.approx(0.75)


def test_a_reward_of_another_project_is_told_of_prompt_image_ids_and_sample():
    from diagcot.rewards.external import RolloutFacts
    from diagcot.training.rl import curriculum as curricula
    from diagcot.training.rl import rollout_collector

    theirs = SETTINGS.model_copy(update={"group_size": 2, "reward": RewardSettings(name="x.py:f", style="trl")})
    prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Look."}]}]
    columns = {"side": "left", "id": "d/s/i", "task": "report", "study": "d/s"}
    told = RolloutFacts(prompt, (b"jpeg",), (5, 2), columns)
    part = RewardSettings(name="report", components={"plain": 0.5, "x.py:f": 0.5})
    mixed = theirs.model_copy(update={"reward": part})
    for settings, expected in (
        (theirs, told),
        (mixed, told),
        (SETTINGS.model_copy(update={"group_size": 2}), RolloutFacts()),
    ):
        curriculum = curricula.Curriculum(settings, 7, 4, [SAMPLE.with_meta(side="left")] * 4, [], [])
        scorer: Any = Scorer()
        rollout_collector.RolloutCollector(scorer, settings, lambda _: (b"jpeg",), [], 7).step(0, curriculum)
        assert [output.facts for output in scorer.asked[0][0]] == [expected] * 2


class Refusing:
    """Refuses prompts whose study is in `studies`."""

    def __init__(self, *studies):
        self.studies, self.asked = studies, []

    def roll_out(self, requests, outputs, progress):
        self.asked.append(len(requests))
        replies = [
            Reply(error="HTTP 400: too long", refused=True)
            if request.messages[0][1] in self.studies
            else reply(*"ab"[: request.n])
            for request in requests
        ]
        shown = [outputs(at, one) for at, one in enumerate(replies)]
        scores = [[{"overall": float(bool(output.text))} for output in each] for each in shown]
        return RolloutBatch(replies, scores, 1.0, 1.25)


def test_a_prompt_that_a_server_refuses_costs_itself_alone():
    from diagcot.training.rl import curriculum as curricula
    from diagcot.training.rl import rollout_collector
    from diagcot.training.rl.experience import statistics

    settings = SETTINGS.model_copy(update={"prompts_per_step": 3, "group_size": 2})
    prompts = [replace(SAMPLE, id=str(n), messages=(("user", str(n)), ("assistant", "clear"))) for n in range(9)]
    curriculum = curricula.Curriculum(settings, 7, 3, prompts, [], prompts[:4])
    first, *others = curriculum.step_prompts(0)
    refusing: Any = Refusing(first.id)
    collector = rollout_collector.RolloutCollector(refusing, settings, lambda _: (), [], 7)
    found = collector.step(0, curriculum)
    assert refusing.asked[0] == 3 and set(refusing.asked[1:]) == {1}
    assert found.samples[1:] == others and found.samples[0].id != first.id
    assert [one.prompt for one in found.rollouts] == [0, 0, 1, 1, 2, 2] and found.replaced == 0
    assert found.refused == len(refusing.asked) - 1 >= 1
    assert statistics(found, found.scores, settings)["refused"] == found.refused

    # In validation a refused prompt is an empty answer, each time.
    refusing.studies = ("1",)
    assert [score["overall"] for score in collector.validate(prompts[:4])] == [1, 0, 1, 1]

    refusing.studies, refusing.asked = tuple(sample.id for sample in prompts), []
    with pytest.raises(RuntimeError, match=r"refused 15 prompts of step 1, first \d \(HTTP 400: too long\)"):
        collector.step(0, curriculum)
    assert refusing.asked == [3] * 5


@pytest.mark.parametrize(
    ("name", "mode", "answer", "wrong"),
    [
        ("report", "clinical", "findings : lungs are clear .", "findings : large left effusion ."),
        (
            "classification",
            "curriculum",
            "The label of this X-ray image is: Edema",
            "The label of this X-ray image is: Fracture",
        ),
        (
            "grounding",
            "matched",
            "The detected edema regions are: <box>(1,2),(90,80)</box>",
            "No edema regions detected.",
        ),
        ("closed", "answer", "B) ✅", "A) ✅"),
        ("open", "answer", "Edema, Fracture", "Edema"),
    ],
)
def test_replies_without_reasoning_are_scored_by_their_answer_alone(name, mode, answer, wrong):
    from diagcot.rewards import registry
    from diagcot.rewards.score import Reference
    from diagcot.training.rl import curriculum as curricula
    from diagcot.training.rl import rollout_collector

    gold = f"<think>line</think><answer>A) ❌</answer><think>so</think><answer>{answer}</answer>"
    settings = SETTINGS.model_copy(update={"prompts_per_step": 1, "group_size": 2, "reasoning": "none"})
    scorer: Any = Scorer()
    curriculum = curricula.Curriculum(settings, 7, 4, [SAMPLE], [], [])
    rollout_collector.RolloutCollector(scorer, settings, lambda _: (b"jpeg",), [], 7).step(0, curriculum)
    (outputs,) = scorer.asked[0]
    plain = outputs[0].text.removesuffix("a</answer>")
    assert [output.text for output in outputs] == [f"{plain}a</answer>", f"{plain}b</answer>"]
    reference = Reference(gold if name in ("closed", "open") else answer)
    reward = registry.reward(name, mode, [reference, Reference(wrong)])
    right, off = reward([f"{plain}{answer}</answer>", f"{plain}{wrong}</answer>"], [reference] * 2)
    assert right["format"] == 1 and right["overall"] > 0.9 > off["overall"]


def test_each_gate_sees_the_samples_of_its_reward_and_the_penalty_comes_last():
    from diagcot.training.rl import experience

    settings = SETTINGS.model_copy(
        update={
            "group_size": 2,
            "overlong": 4,
            "max_tokens": 4,
            "reward": RewardSettings(name="open"),
            "rewards": {"binary": RewardSettings(name="closed"), "report": RewardSettings(name="report")},
        }
    )
    samples = [replace(SAMPLE, task=task) for task in ("open", "binary", "report")]
    rollouts = [Rollout(at, "", (1, 2), (-1.0, -1.0), False, (), 9) for at in (0, 0, 1, 1, 2, 2)]
    part = {"accuracy": 0.5, "process": 0.1, "reason": 0.2}
    scores = [{"overall": 0.5, **part}] * 4 + [{"overall": 0.5}] * 2
    gates = {"open": Gate(mean=0.9), "closed": Gate(mean=0.1)}
    found = experience.final_scores(experience.Experience(samples, rollouts, scores), settings, gates)
    assert [round(score["overall"], 6) for score in found] == [0.0, 0.0, 0.3, 0.3, 0.0, 0.0]
    assert gates["open"].mean == pytest.approx(0.82) and gates["closed"].mean == pytest.approx(0.18)
    figures = experience.statistics(experience.Experience(samples, rollouts, scores), found, settings)
    assert figures["flat"] == 1 and figures["reward_stable"] == 0.5 and figures["reward_overlong"] == -0.5


def test_rollouts_that_are_late_or_left_out_of_the_loss_are_counted():
    from diagcot.training.rl import experience

    rollouts = [Rollout(0, "x", (1,), (-1.0,), cut, (), 9) for cut in (True, False, True)]
    found = experience.Experience([SAMPLE], rollouts, [{"overall": 0.0}] * 3, late=2)
    settings = SETTINGS.model_copy(update={"group_size": 3})
    figures = experience.statistics(found, found.scores, settings)
    assert figures["late"] == 2 and "masked" not in figures
    masked = experience.statistics(found, found.scores, settings.model_copy(update={"mask_cut": True}))
    assert masked["masked"] == 2


GROUPS = [[0.1, 0.1], [0.4, 0.4]]


@pytest.mark.parametrize(
    ("rewards", "layout", "cut", "said"),
    [
        ([[0.1, 0.2], [0.4, 0.4]], 1.0, False, ""),
        ([[0.1, 0.2], [0.4, 0.4]], None, False, ""),  # a reward of another project may have no layout
        (GROUPS, 1.0, False, "rewards inside every group are equal .their mean is 0.250."),
        ([[0.1, 0.1 + 1e-8], [0.4, 0.4]], 1.0, False, "rewards inside every group are equal"),
        ([[0.1, 0.2], [0.4, 0.4]], 0.0, False, "no rollout has the layout"),
        (GROUPS, 0.0, False, "no rollout has the layout"),  # the cause before its effect
        (GROUPS, 0.0, True, "every rollout is cut at max_tokens 1024"),
    ],
)
def test_rollouts_that_teach_nothing_are_told_by_their_cause(rewards, layout, cut, said):
    from diagcot.training.rl import experience

    rollouts = [Rollout(group, "x", (1,), (-1.0,), cut, (), 9) for group in (0, 1) for _ in (0, 1)]
    scores = [{"overall": value} | ({} if layout is None else {"format": layout}) for row in rewards for value in row]
    settings = GrpoSettings().model_copy(update={"group_size": 2})
    first = experience.Experience([SAMPLE, SAMPLE], rollouts, scores)
    found = experience.nothing_to_learn(first, scores, settings)
    assert re.search(said, found) if said else not found
    batch = settings.model_copy(
        update={"advantage_estimator": "reinforce_plus_plus"}
    )  # groups of equal rewards teach it
    assert bool(experience.nothing_to_learn(first, scores, batch)) == (bool(said) and "equal" not in said)
    half = [replace(rollout, cut=index < 2) for index, rollout in enumerate(rollouts)]
    whole = [{"overall": 0.1, "format": 0.0}, {"overall": 0.9, "format": 1.0}] * 2
    assert not experience.nothing_to_learn(experience.Experience([SAMPLE, SAMPLE], half, whole), whole, settings)


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        ("grpo", [-0.707, 0.707, 0, 0]),
        ("rloo", [-1, 1, 0, 0]),
        ("reinforce_plus_plus", [-1.410, 0.846, -0.282, -0.282]),
    ],
)
def test_advantages_are_those_of_the_estimator(estimator, expected):
    """Rewards 0 and 1, and a group of twice 0.5; rollouts of 2, 4, 1 and 1 tokens."""
    from diagcot.training.rl import experience

    lengths = (2, 4, 1, 1)
    rollouts = [Rollout(at // 2, "x", (1,) * size, (-1.0,) * size, False, (), 9) for at, size in enumerate(lengths)]
    scores = [{"overall": value} for value in (0.0, 1.0, 0.5, 0.5)]
    settings = GrpoSettings().model_copy(update={"group_size": 2, "advantage_estimator": estimator})
    found = experience.rollout_advantages(experience.Experience([SAMPLE, SAMPLE], rollouts, scores), scores, settings)
    assert found == pytest.approx(expected, abs=2e-3)


def test_a_page_is_private_and_escapes_what_the_model_wrote(tmp_path):
    rollouts = [
        Rollout(0, "<script>x</script>", (1,), (-1.0,), False, (), 9),
        Rollout(0, "b", (1,), (-1.0,), True, (), 9),
    ]
    path = rollout_page.write(tmp_path / "pages", 3, [SAMPLE], rollouts, [{"overall": 0.1}, {"overall": 0.2}])
    text = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
    assert "<script>" not in text and "&lt;script&gt;" in text and "&lt;image&gt;Look." in text
    assert text.index("0.200") < text.index("0.100") and "http" not in text


def test_the_record_pairs_what_training_gained(tmp_path):
    from diagcot.training.rl import validation

    ctx = context(tmp_path)
    record = validation.ValidationRecord(ctx, ["a", "b", "c"], 7)
    record.add(0, [{"overall": value} for value in (0.1, 0.2, 0.3)])
    record.add(4, [{"overall": value} for value in (0.3, 0.4, 0.5)])
    found = record.gain(4)
    assert found["gain"] == pytest.approx(0.2) and found["gain_low"] == pytest.approx(0.2)
    assert record.gain(2) == {}
    record.rewind(2)
    assert record.gain(4) == {}


def test_a_figure_that_validation_does_not_have_is_named():
    from diagcot.training.rl import validation

    found = validation.figures([{"overall": 1.0, "clinical": 0.5}], ["a"], 0)
    assert validation.figure(found, "clinical") == 0.5
    with pytest.raises(ValueError, match=r"best: f1 .* reward, low, high, clinical"):
        validation.figure(found, "f1")


def test_the_seconds_of_a_step_add_up():
    breakdown = StepBreakdown()
    breakdown.add("rollout_s")
    breakdown.move("rollout_s", "reward_s", 99.0)
    breakdown.skip()
    breakdown.add("train_s")
    seconds = breakdown.figures()
    assert seconds["rollout_s"] == 0 and all(value >= 0 for value in seconds.values())
    assert sum(seconds.values()) - seconds["seconds"] == pytest.approx(seconds["seconds"], abs=5e-4)


@pytest.mark.parametrize(("nodes", "alone", "trainers"), [(1, 0, 4), (3, 1, 8), (4, 3, 4)])
def test_the_last_nodes_may_be_for_servers_alone(nodes, alone, trainers):
    assert SETTINGS.model_copy(update={"rollout_nodes": alone}).trainers(4 * nodes, nodes) == trainers


def test_a_node_is_left_for_the_policy():
    with pytest.raises(UserError, match="rollout_nodes 2 of 2"):
        SETTINGS.model_copy(update={"rollout_nodes": 2}).trainers(2, 2)


@pytest.mark.parametrize(
    ("changes", "gpus", "flags"),
    [
        ({}, 0, ()),
        ({}, 1, ("--enable-sleep-mode",)),
        ({"max_staleness": 1}, 1, ("--scheduling-policy", "priority", "--mm-processor-cache-gb", "0")),
        ({"rollout_nodes": 1, "sync": "device"}, 1, ("--weight-transfer-config", '{"backend":"nccl"}')),
        ({"sync": "device"}, 1, ("--enable-sleep-mode", "--weight-transfer-config", '{"backend":"ipc"}')),
    ],
)
def test_servers_are_started_for_their_placement(tmp_path, monkeypatch, changes, gpus, flags):
    monkeypatch.setattr(rollout_pool, "on_cpu", lambda: not gpus)
    assert (
        rollout_pool.server_settings(SETTINGS.model_copy(update=changes), context(tmp_path, gpus=gpus)).extra == flags
    )


def test_the_cpu_build_never_sleeps_whatever_gpus_slurm_names(tmp_path, monkeypatch):
    monkeypatch.setattr(rollout_pool, "on_cpu", lambda: True)  # as on the development cluster, whose GPUs are names
    assert not rollout_pool.sleeps(SETTINGS, context(tmp_path, gpus=1))


def test_only_rank_0_sweeps_the_workspace_of_what_killed_attempts_left(tmp_path):
    from diagcot.training.rl import weight_transfer

    policy: Any = SimpleNamespace(counts={"parameters": 1})
    ctx = context(tmp_path, nodes=2, world_size=2, rank=1)
    killed = ctx.workspace / "diagcot-weights-1-2"
    killed.mkdir(parents=True)
    weight_transfer.FolderTransfer(policy, None, SETTINGS, ctx)
    assert killed.exists()  # rank 1 may stand on another machine: to it, rank 0's living folder looks like this one
    made = weight_transfer.FolderTransfer(policy, None, SETTINGS, replace(ctx, rank=0))
    assert list(ctx.workspace.glob("diagcot-weights-*")) == [made.root] and made.root.stat().st_mode & 0o077 == 0


def test_gpus_of_a_node_are_shared_out():
    assert server_gpus("4,5,6,7", 4, 1, 2) == ["6", "7"]
    assert server_gpus(None, 2, 0, 1) == ["0", "1"]
    assert server_gpus("3", 1, 1, 2) == ["3"]
    with pytest.raises(UserError, match="1 of the 8 GPUs"):
        server_gpus("3", 8, 0, 8)


def test_a_context_travels(tmp_path):
    import pickle

    from diagcot.jobs import Context

    around = pickle.loads(pickle.dumps(context_fields(context(tmp_path, rank=0, gpus=2))))
    assert Context(**around).gpus == 2
