"""Order of batches, masking of prompts and prepared images."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from diagcot.tasks.prompts import with_image_tags
from diagcot.tasks.samples import ImageRef, Sample
from tests.training import images


@given(
    lengths=st.lists(st.integers(1, 500), min_size=1, max_size=150),
    micro=st.integers(1, 4),
    accumulation=st.integers(1, 3),
    seed=st.integers(0, 5),
)
@examples(max_examples=60, deadline=None)
def test_an_epoch_sees_every_sample_on_any_number_of_ranks(
    lengths: list[int], micro: int, accumulation: int, seed: int
) -> None:
    from diagcot.training.data.order import BatchOrder

    world = 2
    order = BatchOrder(lengths, micro * world * accumulation, micro, seed)
    for epoch in range(2):
        steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
        seen = [index for step in steps for index in order.batch(step)]
        assert set(seen) == set(range(len(lengths)))
        assert len(seen) == order.steps_per_epoch * order.global_batch
        for step in steps:
            spread = [order.micro_batches(step, rank, world) for rank in range(world)]
            passes = [indices for rank in spread for indices in rank]
            assert all(len(rank) == accumulation for rank in spread)
            assert all(len(indices) == micro for indices in passes)
            assert sorted(index for indices in passes for index in indices) == sorted(order.batch(step))


def test_order_depends_on_seed_and_step_alone() -> None:
    from diagcot.training.data.order import BatchOrder

    lengths = [7 * i % 50 + 1 for i in range(100)]
    first = [BatchOrder(lengths, 8, 4, 1).batch(step) for step in (3, 40)]
    other = BatchOrder(lengths, 8, 2, 1)
    assert [other.batch(40), other.batch(3)] == first[::-1]
    assert BatchOrder(lengths, 8, 4, 2).batch(3) != first[0]


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from diagcot.training.config.settings import ModelSettings
    from diagcot.training.models import model, tiny

    directory = tmp_path_factory.mktemp("model")
    texts = [text for sample in images.samples(16) for _, text in sample.messages]
    tiny.build(ModelSettings(), texts, directory)
    return model.load_processor(directory)


def study(count: int) -> Sample:
    """A sample of the first images together, as `views: study` makes them."""
    last = images.samples(count)[-1]
    refs = tuple(ref for sample in images.samples(count) for ref in sample.images)
    return replace(last, images=refs, messages=(("user", with_image_tags(last.prompt, count)), last.messages[1]))


@pytest.mark.parametrize("count", [1, 3])
def test_prompt_is_masked_and_tokenised_as_a_server_does(processor: Any, count: int) -> None:
    from diagcot.training.data.collator import IGNORED, Collator

    sample = study(count)
    source = images.DrawnImages()
    batch = Collator(processor, Path(), 512, source=source)([sample])
    content = [
        *({"type": "image", "image": source.pixels(ref)} for ref in sample.images),
        {"type": "text", "text": sample.prompt.replace("<image>", "")},
    ]
    served = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    length = served["input_ids"].shape[1]
    assert batch["input_ids"][0, :length].tolist() == served["input_ids"][0].tolist()
    visual = batch["input_ids"][0, :length] == processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    assert visual.int().tolist() == served["mm_token_type_ids"][0].tolist()
    assert batch["image_grid_thw"].tolist() == served["image_grid_thw"].tolist()
    assert float((batch["pixel_values"] - served["pixel_values"]).abs().max()) < 1e-5
    assert (batch["labels"][0, :length] == IGNORED).all()
    assert processor.tokenizer.decode(batch["labels"][0, length:]) == sample.answer + "<|im_end|>"


def test_every_image_of_a_study_counts(processor: Any) -> None:
    import torch

    from diagcot.training.data.collator import Collator
    from diagcot.training.models import model

    vlm = model.load(Path(processor.tokenizer.name_or_path), "fp32", None)
    collator, sample = Collator(processor, Path(), 512, source=images.DrawnImages()), study(3)
    losses = []
    for last in (ImageRef("drawn.h5", 2), ImageRef("drawn.h5", 5)):
        other = replace(sample, id=str(last.row), images=(*sample.images[:2], last))
        with torch.no_grad():
            losses.append(float(vlm(**collator([other])).loss))
    assert all(0 < loss < 20 for loss in losses) and losses[0] != losses[1]


def test_every_turn_is_learned(processor: Any) -> None:
    from diagcot.training.data.collator import IGNORED, Collator

    sample = images.samples(1)[0]
    turns = (("user", "<image>What?"), ("assistant", "the heart ."), ("user", "And?"), ("assistant", "no effusion ."))
    labels = (
        Collator(processor, Path(), 512, source=images.DrawnImages()).encode(replace(sample, messages=turns)).labels
    )
    learned = processor.tokenizer.decode(labels[labels != IGNORED])
    assert learned == "the heart .<|im_end|>no effusion .<|im_end|>"


def test_padding_learns_nothing_and_long_answers_are_cut(processor: Any) -> None:
    from dataclasses import replace

    from diagcot.training.data.collator import IGNORED, Collator

    short, long = images.samples(2)
    long = replace(long, id="long", messages=(long.messages[0], ("assistant", "the heart is enlarged . " * 50)))
    collator = Collator(processor, Path(), 128, source=images.DrawnImages())
    batch = collator([short, long])
    size = len(collator.encode(short).ids)
    assert (
        batch["input_ids"].shape[1] == 128 and collator.encode(long).truncated and not collator.encode(short).truncated
    )
    assert (batch["labels"][0, size:] == IGNORED).all() and batch["sequence_lengths"].tolist() == [size, 128]


def test_prompt_that_does_not_fit_is_refused(processor: Any) -> None:
    from diagcot.training.data.collator import Collator

    with pytest.raises(ValueError, match="raise max_length"):
        Collator(processor, Path(), 32, source=images.DrawnImages()).encode(images.samples(1)[0])


def test_marks_and_images_must_agree(processor: Any) -> None:
    from dataclasses import replace

    from diagcot.training.data.collator import Collator

    collator, sample = Collator(processor, Path(), 512, source=images.DrawnImages()), images.samples(1)[0]
    with pytest.raises(ValueError, match="more images"):
        collator.encode(replace(sample, messages=(("user", "What?"), ("assistant", "x"))))
    with pytest.raises(ValueError, match="more <image>"):
        collator.encode(replace(sample, images=()))


def test_images_leave_the_cache_but_stay_the_same(processor: Any) -> None:
    from diagcot.training.data.images import prepared

    refs = [sample.images[0] for sample in images.samples(8)]
    small, large = (prepared(processor, images.DrawnImages(), room) for room in (0, 64))
    for _ in range(2):
        assert small.batch(refs)["pixel_values"].equal(large.batch(refs)["pixel_values"])
    assert len(small._cache) == 1 and len(large._cache) == 8


def test_tags_are_single_tokens_that_stay_in_the_text(processor: Any) -> None:
    tokenizer = processor.tokenizer
    text = "<think>é 12</think>\n<answer><box>(1,23),(456,1000)</box></answer>"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert len(tokenizer("</think>")["input_ids"]) == 1
    assert [len(tokenizer(digits)["input_ids"]) for digits in ("7", "77", "1000")] == [1, 2, 4]


def test_two_conversations_of_one_id_keep_their_own_tokens(processor: Any) -> None:
    from diagcot.training.data.collator import Collator

    collator, sample = Collator(processor, Path(), 512, source=images.DrawnImages()), images.samples(1)[0]
    other = replace(sample, messages=(*sample.messages[:-1], ("assistant", "another answer")))
    first, second = collator.encode(sample), collator.encode(other)
    assert first.ids.tolist() != second.ids.tolist()
    assert collator.encode(sample) is first and collator.encode(other) is second


@given(
    lengths=st.lists(st.integers(1, 500), min_size=2, max_size=60),
    ranks=st.integers(1, 4),
    budget=st.integers(1, 3000),
)
@examples(max_examples=200, deadline=None)
def test_packed_passes_hold_every_sequence_once_within_the_budget(lengths: list[int], ranks: int, budget: int) -> None:
    from diagcot.training.data.order import balanced

    lengths = lengths * ranks  # as many for each rank
    spread = balanced(lengths, ranks, budget)
    assert len(spread) == ranks and len({len(passes) for passes in spread}) == 1
    parts = [part for passes in spread for part in passes]
    assert all(parts) and sorted(index for part in parts for index in part) == list(range(len(lengths)))
    sizes = [sum(lengths[index] for index in part) for part in parts]
    assert max(sizes) <= max(budget, *lengths)
    assert max(sizes) - min(sizes) <= max(lengths)  # balanced: no more than one sequence apart
    if len(spread[0]) > 1:
        assert 2 * sum(lengths) > (len(spread[0]) - 1) * ranks * max(budget, *lengths)  # one pass fewer is too few


@given(counts=st.lists(st.integers(1, 9), min_size=1, max_size=8), ranks=st.integers(1, 4), budget=st.integers(1, 3000))
@examples(max_examples=200, deadline=None)
def test_rollouts_of_a_prompt_stay_together_as_far_as_ranks_and_budget_allow(
    counts: list[int], ranks: int, budget: int
) -> None:
    from diagcot.training.rl.micro_batches import fragments
    from diagcot.training.rl.rollout import Rollout

    counts = counts * ranks  # as many rollouts for each rank
    rollouts = [
        Rollout(prompt, "", (1,) * (1 + 37 * prompt % 90), (), False, (), 50)
        for prompt, count in enumerate(counts)
        for _ in range(count)
    ]
    made = fragments(rollouts, ranks, budget)
    assert [at for own in made for at in own] == list(range(len(rollouts))) and len(made) % ranks == 0
    assert all(len({rollouts[at].prompt for at in own}) == 1 for own in made)
    tokens = [50 + sum(len(rollouts[at].tokens) for at in own) for own in made]
    assert all(size <= budget or len(own) == 1 for size, own in zip(tokens, made, strict=True))
    if all(50 + count * (1 + 37 * prompt % 90) <= budget for prompt, count in enumerate(counts)):
        assert len(made) == len(counts)


def test_packing_changes_the_cut_and_not_the_batch() -> None:
    from diagcot.training.data.order import BatchOrder

    lengths = [7 * i % 50 + 1 for i in range(100)]
    padded, packed = BatchOrder(lengths, 16, 4, 1), BatchOrder(lengths, 16, 4, 1, micro_batch_tokens=120)
    for step in range(9):
        assert packed.batch(step) == padded.batch(step)
        passes = [part for rank in range(2) for part in packed.micro_batches(step, rank, 2)]
        assert sorted(index for part in passes for index in part) == sorted(packed.batch(step))
        assert all(sum(lengths[index] for index in part) <= 120 for part in passes)
