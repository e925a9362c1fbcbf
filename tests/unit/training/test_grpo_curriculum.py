"""The prompts of a step: every one has its turn, mixed ones by their share, and no patient is on both sides."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagcot.data.errors import DataError
from diagcot.jobs.testing import context
from diagcot.tasks.prompt_set import DEFAULT
from diagcot.tasks.samples import ImageRef, Sample, write_samples
from diagcot.training.config.grpo_settings import GrpoSettings, MixSettings
from diagcot.training.config.reward_settings import RewardSettings

SAMPLE = Sample("d/s/i", "report", "d/s", (ImageRef("a.h5", 0),), (("user", "<image>Look."), ("assistant", "clear .")))


def many(count, name="d", **changes):
    return [replace(SAMPLE, id=f"{name}/{n}/i", study=f"{name}/{n}", **changes) for n in range(count)]


@given(st.integers(1, 30), st.integers(1, 8), st.integers(0, 5))
def test_every_prompt_has_its_turn_once_an_epoch(count, per_step, seed):
    from diagcot.training.rl import curriculum

    steps = -(-3 * count // per_step)
    stream = [
        index for step in range(steps) for index in curriculum.choose(count, step * per_step, per_step, str(seed))
    ]
    for epoch in range(3):
        assert sorted(stream[epoch * count : (epoch + 1) * count]) == list(range(count))


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.1, 1), st.integers(1, 6), st.integers(1, 20))
def test_a_mix_keeps_its_share_and_both_streams_their_turns(start, end, until, per_step, steps):
    from diagcot.training.rl import curriculum

    settings = GrpoSettings().model_copy(
        update={"prompts_per_step": per_step, "mix": MixSettings(start=start, end=end, until=until)}
    )
    made = curriculum.Curriculum(settings, 7, steps, many(10), many(5, "other", task="closed"), [])
    found = [made.step_prompts(step) for step in range(steps)]
    assert all(len(step) == per_step for step in found)
    mixed = [sample.id for step in found for sample in step if sample.task == "closed"]
    wanted = sum(settings.mix.share(step / steps) for step in range(steps)) * per_step
    assert len(mixed) == pytest.approx(wanted, abs=1)
    main = [sample.id for step in found for sample in step if sample.task == "report"]
    for stream, size in ((mixed, 5), (main, 10)):
        for epoch in range(len(stream) // size):
            assert len(set(stream[epoch * size : (epoch + 1) * size])) == size


def gathered(tmp_path, rows, mixed=(), **changes):
    from diagcot.training.rl import curriculum

    inputs = {}
    for role, mine in (("samples", rows), ("mix", mixed)):
        if mine:
            (tmp_path / role).mkdir()
            write_samples(tmp_path / role / "0.jsonl", mine)
            inputs[role] = [str(tmp_path / role)]
    settings = GrpoSettings.model_validate({"deepspeed": {"global_batch": 8, "epochs": 1}, **changes})
    return curriculum.load(context(tmp_path, inputs=inputs), settings)


def test_prompts_may_end_with_the_format_instruction(tmp_path):
    rows = [*many(2), *many(1, "asked", messages=(("system", "s"), ("user", "<think>?"), ("assistant", "x")))]
    (tmp_path / "off").mkdir()
    plain = gathered(tmp_path / "off", rows)
    assert {sample.prompt for sample in plain.prompts} == {"<image>Look.", "<think>?"}
    found = gathered(tmp_path, rows, format_instruction=True)
    told = DEFAULT.render("format_instruction", task="report")
    assert {sample.prompt for sample in found.prompts} == {f"<image>Look.\n{told}", "<think>?"}
    assert "<think></think>" in told and "<answer></answer>" in told


def test_changed_copies_are_trained_on_and_never_validated_on(tmp_path, monkeypatch):
    from diagcot.training.rl import curriculum

    monkeypatch.setattr(curriculum.ShardImages, "size", lambda self, ref: (64, 64))
    boxes = {"label": "Edema", "boxes": [[0.1, 0.1, 0.5, 0.5]]}
    rows = many(20, task="grounding", meta=boxes) + many(20, "clear", task="grounding", meta={**boxes, "boxes": []})
    found = gathered(tmp_path, rows, augment=3, validation={"prompts": 8, "share": 0.2})
    plain = [one for one in found.prompts if not one.images[0].change]
    assert len(plain) == 32 and not any(one.images[0].change for one in found.validation)
    assert len(found.prompts) == 32 + 3 * sum(bool(one.meta["boxes"]) for one in plain)
    assert len({one.id for one in found.prompts}) == len(found.prompts)


def test_held_out_patients_are_whole_and_in_no_other_part(tmp_path):
    from diagcot.training.rl import curriculum

    rows = [sample.with_meta(patient=f"d/p{number // 2}") for number, sample in enumerate(many(40))]
    mixed = [replace(sample, id=f"{sample.id}:asked") for sample in rows]
    found = gathered(
        tmp_path, rows, mixed, mix={"start": 0.5}, validation={"prompts": 100, "share": 0.25},
        rewards={"closed": {"name": "closed"}},
    )  # fmt: skip
    out = {curriculum.patient(sample) for sample in found.validation}
    assert len(out) == 5 and len(found.validation) == 10
    assert not out & {curriculum.patient(sample) for sample in (*found.prompts, *found.mixed)}
    assert len(found.prompts) == len(found.mixed) == 30 and found.steps == 7
    (tmp_path / "again").mkdir()
    again = gathered(tmp_path / "again", rows, validation={"prompts": 100, "share": 0.25})
    assert {sample.id for sample in again.validation} == {sample.id for sample in found.validation}


def test_another_split_validates(tmp_path):
    rows = [*many(6), *(sample.with_meta(split="validate") for sample in many(4, "v"))]
    found = gathered(tmp_path, rows, validation={"prompts": 3, "split": "validate"})
    assert len(found.validation) == 3 and all(sample.meta["split"] == "validate" for sample in found.validation)
    assert len(found.prompts) == 6


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mix": {"start": 0.5}}, "no prompts of role mix"),
        ({"validation": {"prompts": 3, "split": "validate"}}, "no prompts to validate on"),
    ],
)
def test_what_is_missing_is_named(tmp_path, changes, says):
    with pytest.raises(DataError, match=says):
        gathered(tmp_path, many(6), **changes)


def test_samples_of_the_test_split_are_refused(tmp_path):
    with pytest.raises(ValueError, match="evaluation only"):
        gathered(tmp_path, [SAMPLE.with_meta(split="test")])


def test_references_go_to_the_reward_of_their_task():
    from diagcot.training.rl import curriculum

    settings = GrpoSettings().model_copy(update={"rewards": {"binary": RewardSettings(name="closed")}})
    made = curriculum.Curriculum(settings, 7, 1, many(3), many(2, "m", task="binary"), many(1, "v"))
    assert {key: len(references) for key, references in made.corpus().items()} == {"": 4, "binary": 2}
